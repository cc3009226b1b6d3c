"""Measuring a policy on held-out tasks, through the same gateway and agents as training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.collect import Collector, PlannedRollout
from agentlightning.algorithm.policy.step_sampler import Progress, publish_endpoint
from agentlightning.algorithm.result import Evaluation

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset

__all__ = ["Evaluator"]


class Evaluator:
    """Runs every held-out task once and averages the rewards."""

    def __init__(
        self, config: RunConfig, store: LightningStore, policy: Policy, collector: Collector
    ) -> None:
        """Measure `policy`, as it is sampled when `measure` is called."""
        self._config = config
        self._store = store
        self._policy = policy
        self._collector = collector

    async def measure(
        self, dataset: Dataset[Any], *, step: int, on_done: Progress
    ) -> tuple[Evaluation, list[str]]:
        """Run all tasks and return the measurement and the ids of its rollouts.

        Args:
            dataset: The tasks.
            step: Training steps done.
            on_done: Called with (ended, all) whenever a rollout has ended.

        Raises:
            TrainingError: No rollout has ended for longer than any may take.
        """
        began = monotonic()
        planned = [
            PlannedRollout(place=f"e{step}-{index}", group_id=f"e{step}", task=dataset[index])
            for index in range(len(dataset))
        ]
        collected = await self._collector.collect(
            planned,
            mode="val",
            step=step,
            resources_id=await publish_endpoint(self._store, self._policy),
            on_done=on_done,
        )
        outcomes = collected.outcomes
        evaluation = Evaluation(
            step=step,
            reward=self._mean_reward(outcomes),
            tasks=len(outcomes),
            failed=sum(outcome.outcome != "ok" for outcome in outcomes),
            seconds=monotonic() - began,
            checkpoint=f"step-{step:06d}" if step else None,
        )
        return evaluation, [outcome.rollout_id for outcome in outcomes]

    def _mean_reward(self, outcomes: Sequence[RolloutOutcome]) -> float:
        failure = self._config.failure_reward
        rewards = [failure if each.reward is None else each.reward for each in outcomes]
        return sum(rewards) / len(rewards)
