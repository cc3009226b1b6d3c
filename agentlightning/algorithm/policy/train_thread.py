"""The one thread in which a policy computes with the model that is trained.

With a pool each of its threads comes by a heap and a team of OpenMP threads of its own, and the
process grows by as many.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from agentlightning._internal.heap import HeapKeeper

__all__ = ["TrainThread"]

P = ParamSpec("P")
T = TypeVar("T")


class TrainThread:
    """Runs one piece of work after the other, in the order they come. For one event loop."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._heap = HeapKeeper()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` in the thread, with the caller's context, and return its result.

        The thread starts when it is needed first. Who is cancelled does not end the work.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="agl-trainer")
        context = contextvars.copy_context()

        def done() -> T:
            try:
                return context.run(work, *args, **kwargs)
            finally:
                self._heap.look()

        return await asyncio.get_running_loop().run_in_executor(self._executor, done)

    async def close(self) -> None:
        """Wait for what is under way, and end the thread; idempotent."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
