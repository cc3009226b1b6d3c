"""An event loop on a thread of its own for code that has none: start, call, stop. Counted by users."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

__all__ = ["BackgroundLoop", "background_loop"]

T = TypeVar("T")

_STOP_SECONDS = 10.0


class BackgroundLoop:
    """A running loop; methods are for any other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="agl-script", daemon=True)
        # An empty context: the thread must not look as if it belonged to some rollout.
        contextvars.Context().run(self._thread.start)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and block until its result is there.

        A wait that is interrupted (Ctrl-C) cancels the coroutine.
        """
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread; what still runs is cancelled."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
        self._thread.join(_STOP_SECONDS)

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        asyncio.get_running_loop().stop()


class _Shared:
    """The one loop of this process, while anybody uses it."""

    lock = threading.Lock()
    users = 0
    loop: BackgroundLoop | None = None


@contextlib.contextmanager
def background_loop() -> Generator[BackgroundLoop]:
    """Share the process's background loop during the block; the last user stops it."""
    with _Shared.lock:
        if _Shared.loop is None:
            _Shared.loop = BackgroundLoop()
        _Shared.users += 1
        shared = _Shared.loop
    try:
        yield shared
    finally:
        with _Shared.lock:
            _Shared.users -= 1
            last = _Shared.users == 0
            if last:
                _Shared.loop = None
        if last:
            shared.stop()
