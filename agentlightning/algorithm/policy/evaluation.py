"""Measuring a policy: on held-out tasks, as in training; or its loss on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.collect import Collector, PlannedRollout
from agentlightning.algorithm.policy.learner import MeasuringLearner
from agentlightning.algorithm.policy.result import Evaluation
from agentlightning.algorithm.policy.step_sampler import Progress, publish_endpoint
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.learner import Learner
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.records import RecordSource
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset

__all__ = ["Evaluator", "RecordEvaluator"]


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
            checkpoint=_checkpoint(step),
        )
        return evaluation, [outcome.rollout_id for outcome in outcomes]

    def _mean_reward(self, outcomes: Sequence[RolloutOutcome]) -> float:
        failure = self._config.failure_reward
        rewards = [failure if each.reward is None else each.reward for each in outcomes]
        return sum(rewards) / len(rewards)


class RecordEvaluator:
    """Measures the loss on held-out answers, and has tasks done by the agent if there is one."""

    def __init__(
        self, records: RecordSource, learner: Learner, evaluator: Evaluator | None
    ) -> None:
        """Measure what `learner` would learn from.

        Args:
            records: Reads held-out answers.
            learner: Of the run; it must measure.
            evaluator: Measures with the agent; None where the fit has none.

        Raises:
            ConfigurationError: The learner measures nothing.
        """
        if not isinstance(learner, MeasuringLearner):
            raise ConfigurationError(
                f"{type(learner).__name__} cannot learn from records: give it `measure`."
            )
        self._records = records
        self._learner = learner
        self._evaluator = evaluator

    async def measure(
        self, dataset: Dataset[Any], *, step: int, on_done: Progress
    ) -> tuple[Evaluation, list[str]]:
        """Measure, as `Evaluator.measure` does.

        Items that look like records are answers, whose loss is measured; with an agent, all are
        tasks too.

        Raises:
            ConfigurationError: A record cannot be read.
            TrainingError: No rollout has ended for longer than any may take.
        """
        from agentlightning.learning.demonstrations import is_record

        began = monotonic()
        metrics: dict[str, float] = {}
        if self._evaluator is None or is_record(dataset[0]):
            outcomes = await self._records.outcomes(dataset, range(len(dataset)), stem=f"e{step}")
            metrics = await self._learner.measure(outcomes)
            if self._evaluator is None:
                on_done(len(dataset), len(dataset))
                evaluation = Evaluation(
                    step=step,
                    reward=-metrics["val/loss"],
                    tasks=len(dataset),
                    seconds=monotonic() - began,
                    checkpoint=_checkpoint(step),
                    metrics=metrics,
                )
                return evaluation, []
        evaluation, rollout_ids = await self._evaluator.measure(dataset, step=step, on_done=on_done)
        return replace(evaluation, metrics=metrics, seconds=monotonic() - began), rollout_ids


def _checkpoint(step: int) -> str | None:
    return f"step-{step:06d}" if step else None
