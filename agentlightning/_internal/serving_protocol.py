"""uvicorn's HTTP protocol, sending what belongs together in one piece.

uvicorn writes an answer's head and its body one after the other. Each write is a system call and
a packet, and the other end wakes up twice to read one answer: together that was a sixth of what a
short request cost both ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GatheringTransport", "gathering_protocol"]

_LARGE_BYTES: Final = 64 * 1024
"""Larger pieces are written by themselves: copying them would cost more than it saves."""


class GatheringTransport:
    """A transport whose first write waits for a second, at most until the loop's next turn.

    Everything else goes on to the transport inside, and in order.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._held = b""
        self._flushing: asyncio.Handle | None = None
        self.is_closing: Callable[[], bool] = inner.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        """Send `data` with what is held, or hold it."""
        if self._flushing is None:
            self._held = data
            self._flushing = self._loop.call_soon(self.flush)
        elif len(data) > _LARGE_BYTES:
            self.flush()
            self._inner.write(data)
        else:
            self._held += data
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
            held, self._held = self._held, b""
            self._inner.write(held)

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._inner.close()


def gathering_protocol() -> type[asyncio.Protocol]:
    """Return the protocol that uvicorn would choose itself, with gathered writes."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class _Gathering(AutoHTTPProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.transport = GatheringTransport(transport, asyncio.get_running_loop())

    return _Gathering
