"""Waiting across event loops and threads: waiters, wait lines and a lock.

asyncio's own primitives belong to one event loop. These belong to none: whoever waits is woken
in its own loop through `call_soon_threadsafe`. No I/O, and no thread is started here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class CommittedThenCancelledError(asyncio.CancelledError):
    """The caller was cancelled, but too late: what it had asked for was done.

    Whoever can undo it may catch this; everybody else sees an ordinary cancellation.
    """

    def __init__(self, result: Any) -> None:
        """Keep what the caller would have got."""
        super().__init__()
        self.result = result


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, at once and in this thread.

    Raises:
        RuntimeError: The coroutine waited for something.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError(
        "An atomic step waited for something other than its collections; "
        "use `async with collections.atomic(...)` for steps that wait."
    )


class Waiter:
    """One wake-up for one coroutine, which any thread may deliver, once.

    Must be made in the event loop that waits for it.
    """

    __slots__ = ("_abandoned", "_fired", "_future", "_guard", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._guard = threading.Lock()
        self._fired = False
        self._abandoned = False

    def fire(self) -> bool:
        """Wake the coroutine; False when it was woken before, has left, or its loop is closed."""
        with self._guard:
            if self._fired or self._abandoned:
                return False
            self._fired = True
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            # A closed loop has nobody left to wake, so the wake-up may go to somebody else.
            return False
        return True

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until fired or `timeout` seconds passed; return whether it was fired."""
        timer = self._loop.call_later(timeout, self._resolve) if timeout is not None else None
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()
        return self._fired

    def abandon(self) -> bool:
        """Stop waiting; return whether a wake-up had been delivered already."""
        with self._guard:
            self._abandoned = True
            return self._fired


class WaitLine:
    """Coroutines of any event loops that wait for their turn, first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiters: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self) -> Waiter:
        """Take a place at the end. Join *before* checking the condition, or a wake-up is lost."""
        waiter = Waiter()
        with self._guard:
            self._waiters[waiter] = None
        return waiter

    def wake(self, count: int = 1) -> int:
        """Wake the first `count` waiters; return how many there were."""
        woken = 0
        while woken < count:
            with self._guard:
                waiter = next(iter(self._waiters), None)
                if waiter is None:
                    break
                del self._waiters[waiter]
            woken += waiter.fire()
        return woken

    def wake_all(self) -> int:
        """Wake everybody; return how many there were."""
        with self._guard:
            waiters = list(self._waiters)
            self._waiters.clear()
        return sum(waiter.fire() for waiter in waiters)

    def leave(self, waiter: Waiter, *, pass_on: bool = False) -> None:
        """Give up a place.

        Args:
            waiter: As given by `join`.
            pass_on: Wake the next in line if this one had been woken and did not use it.
        """
        with self._guard:
            self._waiters.pop(waiter, None)
        if waiter.abandon() and pass_on:
            self.wake()


class CrossLoopLock:
    """A lock for coroutines of any event loops and threads; fair, and not reentrant.

    Nobody is blocked: who has to wait suspends, and is handed the lock in order of arrival.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._line: deque[Waiter] = deque()

    def locked(self) -> bool:
        """Return whether somebody holds the lock."""
        return self._held

    async def acquire(self) -> None:
        """Wait for the lock and take it."""
        with self._guard:
            if not self._held:
                self._held = True
                return
            waiter = Waiter()
            self._line.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            # A cancelled waiter may own the lock already: it was handed over and not yet used.
            if waiter.abandon():
                self.release()
            raise

    def release(self) -> None:
        """Hand the lock to the first who waits, or free it; callable from any thread."""
        while True:
            with self._guard:
                if not self._line:
                    self._held = False
                    return
                waiter = self._line.popleft()
            if waiter.fire():
                return

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
