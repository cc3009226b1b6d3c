"""Sampling one training step: its groups, more than needed if asked for, and refills.

What a step samples depends on seed, step and what its own rollouts brought, on nothing else; so a
step that is sampled again after a crash plans the same rollouts and finds those that had ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.collect import Collected, Collector, PlannedRollout
from agentlightning.algorithm.policy.curriculum import refill_task_indices, step_task_indices
from agentlightning.algorithm.policy.schedule import groups_to_start, signal_groups

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset

__all__ = ["StepSample", "StepSampler", "publish_endpoint"]

Progress = Callable[[int, int], None]


@dataclass(slots=True, kw_only=True)
class StepSample:
    """What was sampled for one step."""

    outcomes: list[RolloutOutcome] = field(default_factory=list["RolloutOutcome"])
    """Of whole groups, those without a signal included."""
    cut: list[str] = field(default_factory=list[str])
    """Ids of rollouts that were started and are not used."""
    groups_cut: int = 0
    refills: int = 0
    groups_refilled: int = 0
    queue_waits: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    """Time from the plan to the last outcome."""

    def add(self, collected: Collected) -> None:
        """Take over what came of one plan."""
        self.outcomes += collected.outcomes
        self.cut += collected.cut
        self.groups_cut += collected.groups_cut
        self.queue_waits += collected.queue_waits

    def metrics(self) -> dict[str, float]:
        """Return how the sampling went, under public names."""
        waits = self.queue_waits or [0.0]
        return {
            "training/async/groups_cut": float(self.groups_cut),
            "training/async/rollouts_cut": float(len(self.cut)),
            "training/async/refills": float(self.refills),
            "training/async/groups_refilled": float(self.groups_refilled),
            "timing/rollout_queue_wait_s/mean": sum(waits) / len(waits),
            "timing/rollout_queue_wait_s/max": max(waits),
        }


class StepSampler:
    """Plans and collects the groups of steps; several steps may be under way at once."""

    def __init__(
        self,
        config: RunConfig,
        store: LightningStore,
        policy: Policy,
        collector: Collector,
        dataset: Dataset[Any],
    ) -> None:
        """Sample tasks of `dataset` with `policy`."""
        self._config = config
        self._store = store
        self._policy = policy
        self._collector = collector
        self._dataset = dataset

    async def sample(self, step: int, on_done: Progress) -> StepSample:
        """Sample a step.

        Args:
            step: Number of the step, from 0.
            on_done: Called with (ended, started) whenever a rollout has ended.

        Raises:
            TrainingError: No rollout has ended for longer than any may take.
        """
        began = monotonic()
        wanted = self._config.batch_groups
        tasks = step_task_indices(
            seed=self._config.seed,
            step=step,
            batch=groups_to_start(wanted, self._config.oversample),
            tasks=len(self._dataset),
        )
        sample = StepSample()
        sample.add(await self._round(step, f"{step}", tasks, wanted, on_done))
        used = set(tasks)
        for number in range(1, self._config.refills + 1):
            missing = wanted - signal_groups(sample.outcomes)
            if missing <= 0:
                break
            tasks = refill_task_indices(
                seed=self._config.seed,
                step=step,
                number=number,
                count=groups_to_start(missing, self._config.oversample),
                tasks=len(self._dataset),
                used=used,
            )
            sample.add(await self._round(step, f"{step}-r{number}", tasks, missing, on_done))
            sample.refills, sample.groups_refilled = number, sample.groups_refilled + missing
            used |= set(tasks)
        sample.seconds = monotonic() - began
        return sample

    async def _round(
        self, step: int, stem: str, tasks: Sequence[int], wanted: int, on_done: Progress
    ) -> Collected:
        """Run `group_size` rollouts of each task, until enough groups are complete."""
        planned = [
            PlannedRollout(
                place=f"t{stem}-{slot}-{member}",
                group_id=f"{stem}-{slot}",
                task=self._dataset[index],
            )
            for slot, index in enumerate(tasks)
            for member in range(self._config.group_size)
        ]
        return await self._collector.collect(
            planned,
            mode="train",
            step=step,
            resources_id=await publish_endpoint(self._store, self._policy),
            on_done=on_done,
            wanted=wanted,
        )


async def publish_endpoint(store: LightningStore, policy: Policy) -> str:
    """Store where the policy is served now, and return the name of this snapshot."""
    update = await store.update_resources("policy", policy.resources())
    return f"{update.resources_id}@{update.version}"
