"""Collecting rollouts: enqueue groups, wait for as many as are wanted, and read what they brought.

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
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, RolloutConfig, RolloutMode

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.algorithm.policy.run_dir import RunDirectory
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Rollout

__all__ = ["CUT_REASON", "Collected", "Collector", "PlannedRollout", "cancel_unfinished"]

logger = logging.getLogger(__name__)

_UNRESPONSIVE_SECONDS = 60.0
"""Silence after which a runner counts as lost; runners renew three times as often."""

_STALL_MARGIN_SECONDS = 60.0

CUT_REASON = "enough other groups of the step were complete"
"""Metadata `cancelled` of a rollout that was started in excess and came too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRollout:
    """One rollout to be made."""

    place: str
    """Where it stands in the run, for instance `t3-0-7`: step 3, first task, eighth member."""
    group_id: str
    task: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What came of a plan."""

    outcomes: list[RolloutOutcome]
    """Of the groups that are used, in the order of the plan."""
    cut: list[str]
    """Ids of the rollouts of all other groups that were started."""
    groups_cut: int
    queue_waits: list[float]
    """How long each used rollout waited for a runner, in seconds."""


class Collector:
    """Runs planned rollouts through the store; several plans may be under way at once."""

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
        wanted: int | None = None,
    ) -> Collected:
        """Run the planned rollouts until so many groups are complete, and cancel the others.

        Args:
            planned: What to run; those that ended in an earlier part of the run are
                not run again.
            mode: Mode of the rollouts.
            step: Step they belong to, kept in their metadata.
            resources_id: Snapshot to run them with.
            on_done: Called with (ended, all) whenever one has ended.
            wanted: Groups to wait for; those that were complete first are used. None: all.

        Raises:
            TrainingError: No rollout has ended for longer than any may take.
        """
        groups = dict.fromkeys(each.group_id for each in planned)
        wanted = len(groups) if wanted is None else wanted
        ids = await self._finished_before(planned)
        missing = {each.group_id for each, found in zip(planned, ids, strict=True) if not found}
        started = [
            found or self._id(each.place, self._run.session)
            for each, found in zip(planned, ids, strict=True)
        ]
        if len(groups) - len(missing) < wanted:
            requests = [
                self._request(each, rollout_id, mode, step, resources_id)
                for each, rollout_id, found in zip(planned, started, ids, strict=True)
                if not found
            ]
            await self._store.enqueue_many_rollouts(requests)
            await self._wait(planned, started, wanted, on_done)
        reused = sum(found is not None for found in ids)
        if reused:
            logger.info("finished rollouts are used again", extra={"count": reused})
        return await self._take(planned, started, wanted)

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

    async def _wait(
        self,
        planned: Sequence[PlannedRollout],
        rollout_ids: Sequence[str],
        wanted: int,
        on_done: Callable[[int, int], None],
    ) -> None:
        """Return once so many groups are complete."""
        total = len(rollout_ids)
        # A rollout whose runner is lost late takes the time of each of its attempts.
        patience = self._config.max_attempts * (
            self._config.rollout_timeout_seconds + _STALL_MARGIN_SECONDS
        )
        waits = {
            asyncio.create_task(
                self._store.wait_for_rollouts(rollout_ids=[rollout_id])
            ): each.group_id
            for each, rollout_id in zip(planned, rollout_ids, strict=True)
        }
        n_groups = len(set(waits.values()))
        try:
            while n_groups - len(set(waits.values())) < wanted:
                done, _ = await asyncio.wait(
                    waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    raise TrainingError(
                        f"{len(waits)} of {total} rollouts are open and none has ended for "
                        f"{patience:.0f} s: is a runner alive and serving this store?"
                    )
                for task in done:
                    task.result()
                    del waits[task]
                on_done(total - len(waits), total)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _take(
        self, planned: Sequence[PlannedRollout], rollout_ids: Sequence[str], wanted: int
    ) -> Collected:
        """Read the groups that were complete first, and cut the others."""
        members: dict[str, list[str]] = {}
        for each, rollout_id in zip(planned, rollout_ids, strict=True):
            members.setdefault(each.group_id, []).append(rollout_id)
        known = {
            rollout.rollout_id: rollout
            for rollout in await self._store.query_rollouts(rollout_id_in=list(rollout_ids))
        }
        used = _first_complete(members, known, wanted)
        rest = [(name, i) for name in members if name not in used for i in members[name]]
        cut = {i: name for name, i in rest if i in known}
        for rollout_id in cut:
            if not is_finished(known[rollout_id]):
                await _cancel(self._store, known[rollout_id], CUT_REASON)
        outcomes: list[RolloutOutcome] = []
        waits: list[float] = []
        for each, rollout_id in zip(planned, rollout_ids, strict=True):
            if each.group_id in used:
                rollout = known[rollout_id]
                if isinstance(rollout, AttemptedRollout):
                    waits.append(max(0.0, rollout.attempt.start_time - rollout.start_time))
                outcomes.append(
                    await fetch_outcome(
                        self._store, rollout, group_id=each.group_id, config=self._config
                    )
                )
        return Collected(
            outcomes=outcomes,
            cut=list(cut),
            groups_cut=len(set(cut.values())),
            queue_waits=waits,
        )


def _first_complete(
    members: dict[str, list[str]], known: dict[str, Rollout], wanted: int
) -> set[str]:
    """Return the groups that were complete first.

    It goes by the times in the store, so that a resumed step takes the same groups again.
    """
    ends: dict[str, float] = {}
    for name, ids in members.items():
        rollouts = [known[i] for i in ids if i in known and is_finished(known[i])]
        if len(rollouts) == len(ids):
            ends[name] = max(rollout.end_time or 0.0 for rollout in rollouts)
    return set(sorted(ends, key=ends.__getitem__)[:wanted])


async def cancel_unfinished(store: LightningStore, *, run_id: str) -> int:
    """Cancel what a stopped part of a run left open, and return how many rollouts that were.

    The endpoint that their resources name is going or gone; a runner that took one up again
    would only fail at it. What ends meanwhile keeps its end.
    """
    left = [
        rollout
        for rollout in await store.query_rollouts(
            status_in=["queuing", "requeuing", "preparing", "running"]
        )
        if (rollout.metadata or {}).get("run_id") == run_id
    ]
    cancelled = [await _cancel(store, rollout, "the run was stopped or killed") for rollout in left]
    return sum(cancelled)


async def _cancel(store: LightningStore, rollout: Rollout, reason: str) -> bool:
    metadata = {**(rollout.metadata or {}), "cancelled": reason}
    try:
        await store.update_rollout(rollout.rollout_id, status="cancelled", metadata=metadata)
    except InvalidTransitionError:
        return False
    return True
