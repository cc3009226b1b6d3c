"""Steps that are sampled ahead of training: tasks of the loop, at most as many as its bound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentlightning.algorithm.policy.schedule import open_steps
from agentlightning.algorithm.policy.step_sampler import Progress, StepSample

__all__ = ["StepsAhead"]


class StepsAhead:
    """Keeps the steps that may be sampled under way, and hands them out in order."""

    def __init__(
        self,
        sample: Callable[[int, Progress], Coroutine[Any, Any, StepSample]],
        *,
        total: int,
        bound: int,
    ) -> None:
        """Sample with `sample`.

        Args:
            sample: Samples a step, telling how far it is.
            total: Steps of the run.
            bound: How many steps sampling may be ahead of training.
        """
        self._sample = sample
        self._total = total
        self._bound = bound
        self._running: dict[int, asyncio.Task[StepSample]] = {}
        self._watch: tuple[int, Progress] | None = None
        """The step that is waited for, and who wants to know how far it is."""

    @property
    def under_way(self) -> int:
        """Return how many steps are being sampled now."""
        return sum(not task.done() for task in self._running.values())

    async def take(self, step: int, on_done: Progress) -> StepSample:
        """Return the sample of the next step, and begin those that may be sampled by now.

        Args:
            step: Steps done so far, which is the number of the next one.
            on_done: Told how far this step is, not how far others are.
        """
        for number in open_steps(done=step, total=self._total, bound=self._bound):
            if number not in self._running:
                self._running[number] = asyncio.create_task(
                    self._sample(number, lambda done, all_, n=number: self._tell(n, done, all_))
                )
        self._watch = (step, on_done)
        try:
            await asyncio.wait({self._running[step]})
            return self._running.pop(step).result()
        finally:
            self._watch = None

    def _tell(self, step: int, done: int, started: int) -> None:
        if self._watch is not None and self._watch[0] == step:
            self._watch[1](done, started)

    async def settle(self) -> None:
        """Wait until nothing is being sampled; what was sampled is kept for `take`."""
        if self._running:
            await asyncio.wait(self._running.values())

    async def stop(self) -> None:
        """Give up what is under way; idempotent."""
        tasks, self._running = list(self._running.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
