"""One atomic step of the store: its collections, its moment, and the events it gives rise to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.errors import NotFoundError
from agentlightning.store.collection_based import worker_state
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.lifecycle import Outcome, deadline, is_ended
from agentlightning.types import (
    Attempt,
    ResourcesUpdate,
    Rollout,
    StoreEvent,
    Worker,
)
from agentlightning.types.event import StoreEventKind

_BATCH = 500
"""Ids per query, well below the parameter limits of SQL databases."""


class Transaction:
    """The step's view of the data; lives as long as the step."""

    __slots__ = ("deadline", "events", "now", "rows")

    def __init__(self, rows: LightningCollections, now: float) -> None:
        self.rows = rows
        self.now = now
        """Unix seconds; the same for everything that the step writes."""
        self.events: list[StoreEvent] = []
        self.deadline: float | None = None
        """The earliest deadline of an attempt that the step started or changed."""

    async def rollout(self, rollout_id: str) -> Rollout:
        """Return a rollout.

        Raises:
            NotFoundError: It is unknown.
        """
        found = await self.rows.rollouts.get({"rollout_id": {"exact": rollout_id}})
        if found is None:
            raise NotFoundError(f"Rollout {rollout_id} not found; enqueue or start it first.")
        return found

    async def latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the attempt with the highest sequence id."""
        return await self.rows.attempts.get(
            {"rollout_id": {"exact": rollout_id}}, {"name": "sequence_id", "order": "desc"}
        )

    async def rollout_with_latest(self, rollout_id: str) -> tuple[Rollout | None, Attempt | None]:
        """Return a rollout and its latest attempt, as far as they exist."""
        rollout = await self.rows.rollouts.get({"rollout_id": {"exact": rollout_id}})
        return rollout, None if rollout is None else await self.latest_attempt(rollout_id)

    async def attempt(self, rollout_id: str, attempt_id: str) -> Attempt:
        """Return an attempt, by its id or as `latest`.

        Raises:
            NotFoundError: It is unknown.
        """
        if attempt_id == "latest":
            found = await self.latest_attempt(rollout_id)
        else:
            found = await self.rows.attempts.get(
                {"rollout_id": {"exact": rollout_id}, "attempt_id": {"exact": attempt_id}}
            )
        if found is None:
            raise NotFoundError(
                f"Attempt {attempt_id} of rollout {rollout_id} not found; start one first."
            )
        return found

    async def attempt_and_latest(self, rollout_id: str, attempt_id: str) -> tuple[Attempt, bool]:
        """Return an attempt, by its id or as `latest`, and whether it is the latest.

        Raises:
            NotFoundError: It is unknown.
        """
        latest = await self.latest_attempt(rollout_id)
        if latest is not None and attempt_id in {"latest", latest.attempt_id}:
            return latest, True
        return await self.attempt(rollout_id, attempt_id), False

    async def latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        """Return the latest attempt of each rollout that has one."""
        latest: dict[str, Attempt] = {}
        for start in range(0, len(rollout_ids), _BATCH):
            batch = list(rollout_ids[start : start + _BATCH])
            for attempt in await self.rows.attempts.query({"rollout_id": {"within": batch}}):
                known = latest.get(attempt.rollout_id)
                if known is None or known.sequence_id < attempt.sequence_id:
                    latest[attempt.rollout_id] = attempt
        return latest

    async def queue(self, rollout_id: str) -> None:
        """Put a rollout at the tail of the queue, unless it is in line already."""
        if not await self.rows.rollout_queue.has(rollout_id):
            await self.rows.rollout_queue.enqueue([rollout_id])

    async def apply(self, rollout: Rollout, attempt: Attempt, outcome: Outcome) -> None:
        """Store what a lifecycle function decided about these two records."""
        if outcome.attempt is not attempt:
            await self.rows.attempts.update([outcome.attempt])
            if outcome.attempt.status != attempt.status:
                self.attempt_event("attempt_updated", outcome.rollout, outcome.attempt)
        if outcome.rollout is not rollout:
            await self.rows.rollouts.update([outcome.rollout])
            self.rollout_event("rollout_updated", outcome.rollout)
        if outcome.requeue:
            await self.queue(rollout.rollout_id)

    def note_deadline(self, rollout: Rollout, attempt: Attempt) -> None:
        """Let the watchdog know when an attempt may be lost."""
        limit = None if is_ended(attempt) else deadline(rollout, attempt)
        if limit is not None:
            self.deadline = limit if self.deadline is None else min(self.deadline, limit)

    # Workers.

    async def worker(self, worker_id: str) -> Worker:
        """Return a worker; an unknown one is a fresh record that is not stored yet."""
        found = await self.rows.workers.get({"worker_id": {"exact": worker_id}})
        return found or Worker(worker_id=worker_id)

    async def put_worker(self, worker: Worker, *, before: Worker) -> None:
        """Store a worker, and tell if more than its times changed."""
        await self.rows.workers.upsert([worker])
        if worker.status != before.status or (
            worker.current_attempt_id != before.current_attempt_id
        ):
            self.worker_event(worker)

    async def release_worker(self, attempt: Attempt) -> None:
        """Let the worker of an ended attempt go, unless it has moved on to another."""
        if attempt.worker_id is None:
            return
        before = await self.worker(attempt.worker_id)
        if before.current_attempt_id in {None, attempt.attempt_id}:
            after = worker_state.ended(before, attempt, now=self.now)
            await self.put_worker(after, before=before)

    async def occupy_worker(self, worker_id: str, attempt: Attempt, *, claimed: bool) -> None:
        """Note that a worker works on an attempt."""
        before = await self.worker(worker_id)
        after = worker_state.busy(before, attempt, now=self.now, claimed=claimed)
        await self.put_worker(after, before=before)

    # Events.

    def _event(self, kind: StoreEventKind, **fields: Any) -> None:
        self.events.append(StoreEvent(seq=0, kind=kind, time=self.now, **fields))

    def rollout_event(self, kind: StoreEventKind, rollout: Rollout) -> None:
        """Tell of a rollout."""
        self._event(
            kind,
            rollout_id=rollout.rollout_id,
            resources_id=rollout.resources_id,
            status=rollout.status,
            data={"mode": rollout.mode, "metadata": rollout.metadata},
        )

    def attempt_event(
        self, kind: StoreEventKind, rollout: Rollout, attempt: Attempt, **data: Any
    ) -> None:
        """Tell of an attempt."""
        self._event(
            kind,
            rollout_id=rollout.rollout_id,
            attempt_id=attempt.attempt_id,
            worker_id=attempt.worker_id,
            status=attempt.status,
            data={"mode": rollout.mode, "metadata": rollout.metadata, **data},
        )

    def resources_event(self, resources: ResourcesUpdate) -> None:
        """Tell of a new snapshot."""
        self._event(
            "resources_updated",
            resources_id=resources.resources_id,
            data={"version": resources.version},
        )

    def worker_event(self, worker: Worker) -> None:
        """Tell of a worker."""
        self._event(
            "worker_updated",
            worker_id=worker.worker_id,
            rollout_id=worker.current_rollout_id,
            attempt_id=worker.current_attempt_id,
            status=worker.status,
        )
