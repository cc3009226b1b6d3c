"""Holding calls back while weights change.

A gate belongs to one event loop; `Gateway` carries calls from other threads to it.
"""

from __future__ import annotations

import asyncio

from agentlightning.errors import GatewayPausedError

__all__ = ["PauseGate"]


class PauseGate:
    """Lets calls in unless paused, and knows how many are inside."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_paused(self) -> bool:
        """Return whether new calls have to wait."""
        return not self._open.is_set()

    def pause(self) -> None:
        """Hold back calls from now on; those inside go on. Idempotent."""
        self._open.clear()

    def resume(self) -> None:
        """Let waiting and new calls in. Idempotent."""
        self._open.set()

    async def enter(self, timeout: float) -> None:
        """Go in, waiting up to `timeout` seconds while paused; whoever entered must `leave`.

        Raises:
            GatewayPausedError: Still paused after that time.
        """
        if self.is_paused:
            try:
                async with asyncio.timeout(timeout):
                    # A pause that follows a resume at once must hold this call back again.
                    while self.is_paused:
                        await self._open.wait()
            except TimeoutError:
                raise GatewayPausedError(
                    f"The model is being updated, and was not back after {timeout:g} s. "
                    "Make the call again."
                ) from None
        self.in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count a call as over."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no call is inside, and return whether that was so within `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
