"""Collecting rollouts: enqueue a step's tasks, wait for them, and read what they brought.

Rollout ids are made from run, step and place, so that collecting the same step again after a
crash finds the rollouts that were finished and runs only the others, under new ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.policy.outcome import RolloutOutcome, fetch_outcome
from agentlightning.errors import InvalidTransitionError, TrainingError
from agentlightning.store.base import is_finished
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig, RolloutMode

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.algorithm.policy.run_dir import RunDirectory
    from agentlightning.store.base import LightningStore

__all__ = ["Collector", "PlannedRollout", "cancel_unfinished"]

logger = logging.getLogger(__name__)

_UNRESPONSIVE_SECONDS = 60.0
"""Silence after which a runner counts as lost; runners renew three times as often."""

_STALL_MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRollout:
    """One rollout to be made."""

    place: str
    """Where it stands in the run, for instance `t3-0-7`: step 3, first task, eighth member."""
    group_id: str
    task: Any


class Collector:
    """Runs planned rollouts through the store; one step at a time."""

    def __init__(self, store: LightningStore, config: RunConfig, run: RunDirectory) -> None:
        """Use `store` under the time limits of `config`."""
        self._store = store
        self._config = config
        self._run = run

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
            planned: What to run; those that ended in an earlier part of the run are
                not run again.
            mode: Mode of the rollouts.
            step: Step they belong to, kept in their metadata.
            resources_id: Snapshot to run them with.
            on_done: Called with (ended, all) whenever one has ended.

        Raises:
            TrainingError: No rollout has ended for longer than any may take.
        """
        ids = await self._finished_before(planned)
        reused = sum(rollout_id is not None for rollout_id in ids)
        if reused:
            logger.info("finished rollouts are used again", extra={"count": reused})
        ids = [
            rollout_id or self._id(each.place, self._run.session)
            for each, rollout_id in zip(planned, ids, strict=True)
        ]
        requests = [
            self._request(each, rollout_id, mode, step, resources_id)
            for each, rollout_id in zip(planned, ids, strict=True)
        ]
        # Enqueueing a rollout that is there already changes nothing.
        await self._store.enqueue_many_rollouts(requests)
        await self._wait(ids, on_done)
        return await self._read(planned, ids)

    def _id(self, place: str, session: int) -> str:
        return f"ro-{self._run.run_id}-{session}-{place}"

    async def _finished_before(self, planned: Sequence[PlannedRollout]) -> list[str | None]:
        """Return, for each planned rollout, the id of an earlier session's one that has ended."""
        if not self._run.resumed:
            return [None] * len(planned)
        sessions = range(1, self._run.session)
        earlier = {
            self._id(each.place, session): index
            for index, each in enumerate(planned)
            for session in sessions
        }
        found: list[str | None] = [None] * len(planned)
        for rollout in await self._store.query_rollouts(rollout_id_in=list(earlier)):
            if is_finished(rollout) and rollout.status != "cancelled":
                found[earlier[rollout.rollout_id]] = rollout.rollout_id
        return found

    def _request(
        self,
        each: PlannedRollout,
        rollout_id: str,
        mode: RolloutMode,
        step: int,
        resources_id: str,
    ) -> EnqueueRolloutRequest:
        return EnqueueRolloutRequest(
            input=each.task,
            mode=mode,
            resources_id=resources_id,
            config=RolloutConfig(
                timeout_seconds=self._config.rollout_timeout_seconds,
                unresponsive_seconds=_UNRESPONSIVE_SECONDS,
                max_attempts=self._config.max_attempts,
                retry_condition=["unresponsive"],
            ),
            metadata={"run_id": self._run.run_id, "step": step, "group_id": each.group_id},
            rollout_id=rollout_id,
        )

    async def _wait(self, rollout_ids: list[str], on_done: Callable[[int, int], None]) -> None:
        total = len(rollout_ids)
        # A rollout whose runner is lost late takes the time of each of its attempts.
        patience = self._config.max_attempts * (
            self._config.rollout_timeout_seconds + _STALL_MARGIN_SECONDS
        )
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

    async def _read(
        self, planned: Sequence[PlannedRollout], ids: Sequence[str]
    ) -> list[RolloutOutcome]:
        ended = {
            rollout.rollout_id: rollout
            for rollout in await self._store.query_rollouts(rollout_id_in=list(ids))
        }
        return [
            await fetch_outcome(
                self._store, ended[rollout_id], group_id=each.group_id, config=self._config
            )
            for each, rollout_id in zip(planned, ids, strict=True)
        ]


async def cancel_unfinished(store: LightningStore, *, run_id: str) -> int:
    """Cancel what a stopped part of a run left open, and return how many rollouts that were.

    The endpoint that their resources name is going or gone; a runner that took one up again
    would only fail at it. What ends meanwhile keeps its end.
    """
    left = [
        rollout.rollout_id
        for rollout in await store.query_rollouts(
            status_in=["queuing", "requeuing", "preparing", "running"]
        )
        if (rollout.metadata or {}).get("run_id") == run_id
    ]
    cancelled = [await _cancel(store, rollout_id) for rollout_id in left]
    return sum(cancelled)


async def _cancel(store: LightningStore, rollout_id: str) -> bool:
    try:
        await store.update_rollout(rollout_id, status="cancelled")
    except InvalidTransitionError:
        return False
    return True
