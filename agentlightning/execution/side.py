"""One side of an execution, algorithm or runner, with an event loop and an end of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agentlightning.runner.stop import until_set
from agentlightning.types.event import ExecutionEvent

__all__ = ["Side", "StopPolicy"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPolicy:
    """What a side is granted after the stop signal."""

    event: ExecutionEvent
    grace_seconds: float
    """Time to end by itself; then it is cancelled and has the same time to clean up."""
    check_seconds: float
    """How often the signal is looked at."""


class Side:
    """Runs one coroutine to its end, in the calling thread or in one of its own."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Coroutine[Any, Any, None]],
        policy: StopPolicy,
        on_end: Callable[[Side], None],
    ) -> None:
        """Bind the work; nothing runs yet.

        Args:
            name: Of the thread, and in messages.
            start: Makes the coroutine, inside the side's own event loop.
            policy: How it is stopped.
            on_end: Called when the side has ended, in its thread.
        """
        self.name = name
        self.error: BaseException | None = None
        """What the coroutine raised, other than its own cancellation."""
        self._start = start
        self._policy = policy
        self._on_end = on_end
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    def run(self) -> None:
        """Run in the calling thread; errors are kept in `error`, except `KeyboardInterrupt`."""
        if _loop_is_running():
            # A notebook's thread has a loop of its own, and loops do not nest.
            self.start()
            while self.is_alive():
                self.join(self._policy.check_seconds)
            return
        self._run()

    def start(self) -> None:
        """Run in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name=f"agl-{self.name}", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the side's thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float) -> bool:
        """Wait for the side's thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.is_alive()

    def cancel(self) -> None:
        """Cancel the coroutine, once; from any thread or signal handler, at any time."""
        if self._cancelled:
            return
        self._cancelled = True
        loop, task = self._loop, self._task
        if loop is None or task is None:
            return
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            logger.debug("side has ended already", extra={"side": self.name})

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except KeyboardInterrupt as error:
            self.error = error
            if threading.current_thread() is threading.main_thread():
                raise
        except BaseException as error:  # noqa: BLE001 - boundary: thread top, raised by the strategy.
            self.error = error
        finally:
            self._on_end(self)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = self._task = asyncio.create_task(self._start())
        stop = asyncio.create_task(until_set(self._policy.event, self._policy.check_seconds))
        if self._cancelled:
            task.cancel()
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=self._policy.grace_seconds)
            if not task.done():
                self._cancelled = True
                task.cancel()
                await asyncio.wait({task}, timeout=self._policy.grace_seconds)
        finally:
            stop.cancel()
        if not task.done():
            logger.warning("side does not stop; it is left behind", extra={"side": self.name})
        elif not task.cancelled():
            task.result()
        elif not self._cancelled:
            raise asyncio.CancelledError


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
