"""An event loop on a thread of its own, for database drivers that belong to one loop.

Coroutines of any other loop and thread hand their work over and wait for it without blocking.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning.errors import StoreError

T = TypeVar("T")

_STOP_SECONDS = 10.0


class _Handed(Generic[T]):
    """A coroutine on its way to the loop, and its way back."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.task: asyncio.Task[T]
        self._work = work
        self._context = contextvars.copy_context()
        self._home = asyncio.get_running_loop()
        self.arrived: asyncio.Future[None] = self._home.create_future()

    def begin(self) -> None:
        """Start the coroutine; called on the loop."""
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._work(), context=self._context)
        self.task.add_done_callback(self._deliver)

    def cancel(self) -> None:
        """Cancel the coroutine; called on the loop."""
        self.task.cancel()

    def _deliver(self, task: asyncio.Task[T]) -> None:
        try:
            self._home.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            # The caller's loop was closed meanwhile: nobody waits any more.
            if not task.cancelled():
                task.exception()

    def _resolve(self) -> None:
        if not self.arrived.done():
            self.arrived.set_result(None)

    async def settled(self) -> None:
        """Wait until the coroutine has ended, however often the caller is cancelled."""
        while not self.arrived.done():
            try:
                await asyncio.shield(self.arrived)
            except asyncio.CancelledError:
                continue


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        # The loop is closed, and has cancelled all of its tasks itself.
        return


async def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel everything else on the loop, wait for it, and stop the loop."""
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    loop.stop()


class IoLoop:
    """The loop, started at the first use, on a daemon thread.

    All methods may be called from any thread. After a fork the child must make its own.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = False

    def _begin(self, begin: Callable[[], object]) -> asyncio.AbstractEventLoop:
        """Have the loop call something, and return it; `close` comes either before or after."""
        with self._guard:
            if self._closed:
                raise StoreError("The store is closed; open it again.")
            if os.getpid() != self._process:
                raise StoreError(
                    "This store was opened in another process; open it anew here, or use it "
                    "through a LightningStoreServer."
                )
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            self._loop.call_soon_threadsafe(begin)
            return self._loop

    def owns_current_thread(self) -> bool:
        """Return whether the caller runs on this loop."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop, in the caller's context, and return its result.

        A caller that is cancelled cancels the work, and waits until that has taken effect.

        Raises:
            CommittedThenCancelledError: The caller was cancelled, but the work was done.
            StoreError: The loop is closed, or belongs to a process that this one was forked from.
        """
        if self.owns_current_thread():
            return await work()
        handed = _Handed(work)
        loop = self._begin(handed.begin)
        try:
            await asyncio.shield(handed.arrived)
        except asyncio.CancelledError:
            _tell(loop, handed.cancel)
            await handed.settled()
            if handed.task.cancelled() or handed.task.exception() is not None:
                raise
            raise CommittedThenCancelledError(handed.task.result()) from None
        if handed.task.cancelled():
            raise StoreError("The store was closed before this was done; open it again.")
        return handed.task.result()

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """Start a coroutine in the background, and return what cancels it; idempotent.

        It ends by itself, or when it is cancelled, or when the loop is closed.

        Raises:
            StoreError: As for `run`.
        """
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            tasks.append(asyncio.get_running_loop().create_task(work()))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        loop = self._begin(begin)
        return lambda: _tell(loop, cancel)

    def close(self) -> None:
        """Cancel what still runs, stop the loop and end the thread; idempotent."""
        with self._guard:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = None
            if loop is None or thread is None or os.getpid() != self._process:
                return
            # Behind all that was begun, so that nothing is left waiting for a loop that is gone.
            loop.call_soon_threadsafe(loop.create_task, _finish(loop))
        if threading.current_thread() is not thread:
            thread.join(_STOP_SECONDS)
