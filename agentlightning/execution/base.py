"""The contract of an execution strategy: it runs one algorithm beside its runners.

A bundle is everything one side needs, packed into one coroutine function by the trainer.
"""

from __future__ import annotations

from typing import Protocol

from agentlightning.store.base import LightningStore
from agentlightning.types.event import ExecutionEvent

__all__ = ["AlgorithmBundle", "ExecutionStrategy", "RunnerBundle"]


class AlgorithmBundle(Protocol):
    """Runs the algorithm to its end, or until the event is set.

    It must pickle (a function at the top of a module, or a `functools.partial` of one) wherever
    it is sent to a spawned process.
    """

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run the algorithm against `store`."""
        ...


class RunnerBundle(Protocol):
    """Runs one worker until the event is set; pickles under the same rule as `AlgorithmBundle`."""

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Run worker number `worker_id`, counted from 0, against `store`."""
        ...


class ExecutionStrategy:
    """Decides where the algorithm and the runners live: threads, processes, machines."""

    def execute(
        self, algorithm: AlgorithmBundle, runner: RunnerBundle, store: LightningStore
    ) -> None:
        """Run both sides to the end; blocks.

        Args:
            algorithm: Runs once; when it returns, the runners are asked to stop.
            runner: Runs once per worker.
            store: What both sides meet at; the strategy may put a server or a lock around it.

        Raises:
            ExecutionError: A side ended in a way that was not asked for.
            KeyboardInterrupt: The user asked to stop; everything was cleaned up first.
        """
        raise NotImplementedError
