"""A gate that calls pass until it is closed, and that knows when the last one has left."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["Gate"]


class Gate:
    """Open at first. Its methods may be called from any event loop, many at once."""

    def __init__(self) -> None:
        # Guards the fields below; never held across an await.
        self._lock = threading.Lock()
        self._closed = False
        self._inside = 0
        self._outside: list[Future[None]] = []
        self._leaving: list[Future[None]] = []

    @property
    def closed(self) -> bool:
        """Tell whether calls wait."""
        return self._closed

    @property
    def inside(self) -> int:
        """Return how many calls have passed and not left."""
        return self._inside

    @property
    def outside(self) -> int:
        """Return how many calls wait."""
        return len(self._outside)

    @asynccontextmanager
    async def passing(self) -> AsyncGenerator[None]:
        """Wait until the gate is open, and be inside for the length of the block."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        while True:
            with self._lock:
                if not self._closed:
                    self._inside += 1
                    return
                turn: Future[None] = Future()
                self._outside.append(turn)
            try:
                await asyncio.wrap_future(turn)
            finally:
                with self._lock:
                    if turn in self._outside:
                        self._outside.remove(turn)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            woken, self._leaving = ([], self._leaving) if self._inside else (self._leaving, [])
        _wake(woken)

    def close(self) -> None:
        """Let nobody in from now on; idempotent."""
        with self._lock:
            self._closed = True

    def open(self) -> None:
        """Let everybody in; idempotent."""
        with self._lock:
            self._closed = False
            woken, self._outside = self._outside, []
        _wake(woken)

    async def empty(self) -> None:
        """Return once nobody is inside."""
        with self._lock:
            if not self._inside:
                return
            last: Future[None] = Future()
            self._leaving.append(last)
        await asyncio.wrap_future(last)


def _wake(futures: list[Future[None]]) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_result(None)
