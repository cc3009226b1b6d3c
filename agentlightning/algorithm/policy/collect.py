"""Collecting rollouts: enqueue a step's tasks, wait for them, and read what they brought.

Rollout ids are made from run, step and place, so that collecting the same step again after a
crash finds the rollouts that were finished and runs only the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.policy.outcome import RolloutOutcome, fetch_outcome
from agentlightning.errors import TrainingError
from agentlightning.store.base import is_finished, is_running
from agentlightning.types import EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.config import GRPOConfig
    from agentlightning.store.base import LightningStore

__all__ = ["Collector", "PlannedRollout"]

logger = logging.getLogger(__name__)

_UNRESPONSIVE_SECONDS = 60.0
"""Silence after which a runner counts as lost; runners renew three times as often."""

_STALL_MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRollout:
    """One rollout to be made."""

    rollout_id: str
    group_id: str
    task: Any


class Collector:
    """Runs planned rollouts through the store; one step at a time."""

    def __init__(self, store: LightningStore, config: GRPOConfig, *, run_id: str) -> None:
        """Use `store` under the time limits of `config`."""
        self._store = store
        self._config = config
        self._run_id = run_id

    async def collect(
        self,
        planned: Sequence[PlannedRollout],
        *,
        mode: RolloutMode,
        step: int,
        resources_id: str,
        on_done: Callable[[int, int], None],
    ) -> list[RolloutOutcome]:
        """Return the outcomes of all planned rollouts, in their order.

        Args:
            planned: What to run; ids that the store knows are not run again.
            mode: Mode of the rollouts.
            step: Step they belong to, kept in their metadata.
            resources_id: Snapshot to run them with.
            on_done: Called with (ended, all) whenever one has ended.

        Raises:
            TrainingError: No rollout has ended for longer than any may take.
        """
        config = RolloutConfig(
            timeout_seconds=self._config.rollout_timeout_seconds,
            unresponsive_seconds=_UNRESPONSIVE_SECONDS,
            max_attempts=self._config.max_attempts,
            retry_condition=["unresponsive"],
        )
        requests = [
            EnqueueRolloutRequest(
                input=each.task,
                mode=mode,
                resources_id=resources_id,
                config=config,
                metadata={"run_id": self._run_id, "step": step, "group_id": each.group_id},
                rollout_id=each.rollout_id,
            )
            for each in planned
        ]
        rollouts = await self._store.enqueue_many_rollouts(requests)
        await self._revive(rollouts, resources_id)
        await self._wait([rollout.rollout_id for rollout in rollouts], on_done)
        return await self._read(planned)

    async def _revive(self, rollouts: Sequence[Rollout], resources_id: str) -> None:
        """Put rollouts of an earlier, killed part of the run back into the queue.

        Their runners are gone, and so is the endpoint that their snapshot names.
        """
        orphaned = [
            rollout
            for rollout in rollouts
            if not is_finished(rollout) and rollout.resources_id != resources_id
        ]
        for rollout in orphaned:
            await self._store.update_rollout(rollout.rollout_id, resources_id=resources_id)
            if is_running(rollout):
                await self._store.update_rollout(rollout.rollout_id, status="requeuing")
        if orphaned:
            logger.info("unfinished rollouts run again", extra={"count": len(orphaned)})

    async def _wait(self, rollout_ids: list[str], on_done: Callable[[int, int], None]) -> None:
        total = len(rollout_ids)
        patience = self._config.rollout_timeout_seconds + _STALL_MARGIN_SECONDS
        waits = {
            asyncio.create_task(self._store.wait_for_rollouts(rollout_ids=[rollout_id]))
            for rollout_id in rollout_ids
        }
        try:
            while waits:
                done, waits = await asyncio.wait(
                    waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    raise TrainingError(
                        f"{len(waits)} of {total} rollouts are open and none has ended for "
                        f"{patience:.0f} s: is a runner alive and serving this store?"
                    )
                for task in done:
                    task.result()
                on_done(total - len(waits), total)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _read(self, planned: Sequence[PlannedRollout]) -> list[RolloutOutcome]:
        ids = [each.rollout_id for each in planned]
        ended = {
            rollout.rollout_id: rollout
            for rollout in await self._store.query_rollouts(rollout_id_in=ids)
        }
        return [
            await fetch_outcome(
                self._store, ended[each.rollout_id], group_id=each.group_id, config=self._config
            )
            for each in planned
        ]
