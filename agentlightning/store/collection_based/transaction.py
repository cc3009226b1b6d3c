"""One atomic step of the store as a unit of work: what it read, and what it wants written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentlightning.errors import NotFoundError
from agentlightning.store.collection_based import announcements, worker_state
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.changes import Changes
from agentlightning.store.lifecycle import Outcome, deadline, on_taken_away
from agentlightning.types import (
    Attempt,
    ResourcesUpdate,
    Rollout,
    Worker,
)
from agentlightning.types.event import StoreEventKind

_BATCH = 500
"""Records per question, so that a step may ask for any number."""


class Transaction:
    """The step's view of the data; lives as long as the step.

    A record is read from storage once and then kept, so that a step sees its own writes. Writing
    only notes in `changes` what is to be stored: whoever runs the step has it written at the end,
    all at once. So a step that raises has written nothing, whatever the storage.

    A rollout is asked for before anything that belongs to it: backends that run steps side by
    side guard all of it by the rollout.
    """

    __slots__ = (
        "_attempts",
        "_latest",
        "_newest",
        "_rollouts",
        "_sequence_ids",
        "_workers",
        "changes",
        "deadline",
        "now",
        "rows",
    )

    def __init__(
        self, rows: LightningCollections, now: float, changes: Changes | None = None
    ) -> None:
        self.rows = rows
        """For reading only."""
        self.now = now
        """Unix seconds; the same for everything that the step writes."""
        self.changes = Changes() if changes is None else changes
        self.deadline: float | None = None
        """The earliest deadline of an attempt that the step started or changed."""
        self._rollouts: dict[str, Rollout | None] = {}
        self._latest: dict[str, Attempt | None] = {}
        self._attempts: dict[tuple[str, str], Attempt | None] = {}
        self._workers: dict[str, Worker] = {}
        self._sequence_ids: dict[str, int] = {}
        self._newest: tuple[str | None] | None = None

    # Rollouts.

    async def load(self, rollout_ids: Sequence[str], *, attempts: bool = True) -> None:
        """Read rollouts, and their latest attempts, in as few questions as possible."""
        for batch in _batches([key for key in rollout_ids if key not in self._rollouts]):
            found = await self.rows.find_rollouts(batch)
            self._rollouts |= {**dict.fromkeys(batch), **found}
        if not attempts:
            return
        for batch in _batches([key for key in rollout_ids if key not in self._latest]):
            latest = await self.rows.find_latest_attempts(batch)
            self._latest |= {**dict.fromkeys(batch), **latest}

    def loaded(self, rollout_id: str) -> tuple[Rollout | None, Attempt | None]:
        """Return a rollout and its latest attempt, which were loaded before."""
        return self._rollouts[rollout_id], self._latest[rollout_id]

    async def find_rollout(self, rollout_id: str) -> Rollout | None:
        """Return a rollout, or None."""
        if rollout_id not in self._rollouts:
            found = await self.rows.find_rollouts((rollout_id,))
            self._rollouts[rollout_id] = found.get(rollout_id)
        return self._rollouts[rollout_id]

    async def rollout(self, rollout_id: str) -> Rollout:
        """Return a rollout.

        Raises:
            NotFoundError: It is unknown.
        """
        found = await self.find_rollout(rollout_id)
        if found is None:
            raise NotFoundError(f"Rollout {rollout_id} not found; enqueue or start it first.")
        return found

    def add_rollout(self, rollout: Rollout) -> None:
        """Store a new rollout."""
        self._rollouts[rollout.rollout_id] = rollout
        self._latest[rollout.rollout_id] = None
        self.changes.new_rollouts[rollout.rollout_id] = rollout
        self.rollout_event("rollout_created", rollout)

    def put_rollout(self, rollout: Rollout) -> None:
        """Store a rollout that changed."""
        rollout_id = rollout.rollout_id
        self._rollouts[rollout_id] = rollout
        changes = self.changes
        if rollout_id in changes.new_rollouts:
            changes.new_rollouts[rollout_id] = rollout
        else:
            changes.rollouts[rollout_id] = rollout
        self.rollout_event("rollout_updated", rollout)

    async def queue(self, rollout_id: str) -> None:
        """Put a rollout at the tail of the queue, unless it is in line already."""
        if not await self.rows.rollout_queue.has(rollout_id):
            self.changes.queued[rollout_id] = None

    # Attempts.

    async def latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the attempt with the highest sequence id."""
        if rollout_id not in self._latest:
            latest = await self.rows.find_latest_attempts((rollout_id,))
            self._latest[rollout_id] = latest.get(rollout_id)
        return self._latest[rollout_id]

    async def rollout_with_latest(self, rollout_id: str) -> tuple[Rollout | None, Attempt | None]:
        """Return a rollout and its latest attempt, as far as they exist."""
        rollout = await self.find_rollout(rollout_id)
        return rollout, None if rollout is None else await self.latest_attempt(rollout_id)

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        """Return an attempt by its id, or None."""
        latest = self._latest.get(rollout_id)
        if latest is not None and latest.attempt_id == attempt_id:
            return latest
        key = (rollout_id, attempt_id)
        if key not in self._attempts:
            self._attempts[key] = await self.rows.find_attempt(rollout_id, attempt_id)
        return self._attempts[key]

    async def work(self, rollout_id: str, attempt_id: str) -> tuple[Rollout, Attempt, bool]:
        """Return a rollout, an attempt at it, by its id or as `latest`, and whether that is the
        latest one.

        Raises:
            NotFoundError: One of them is unknown.
        """
        rollout = self._rollouts.get(rollout_id) or await self.rollout(rollout_id)
        latest = self._latest.get(rollout_id) or await self.latest_attempt(rollout_id)
        if latest is not None and (attempt_id == "latest" or attempt_id == latest.attempt_id):
            return rollout, latest, True
        found = None
        if attempt_id != "latest":
            found = await self.find_attempt(rollout_id, attempt_id)
        if found is None:
            raise NotFoundError(
                f"Attempt {attempt_id} of rollout {rollout_id} not found; start one first."
            )
        return rollout, found, False

    def add_attempt(self, attempt: Attempt) -> None:
        """Store a new attempt, which becomes its rollout's latest."""
        self._latest[attempt.rollout_id] = attempt
        self.changes.new_attempts[attempt.rollout_id, attempt.attempt_id] = attempt

    def put_attempt(self, attempt: Attempt) -> None:
        """Store an attempt that changed."""
        key = (attempt.rollout_id, attempt.attempt_id)
        latest = self._latest.get(attempt.rollout_id)
        if latest is not None and latest.attempt_id == attempt.attempt_id:
            self._latest[attempt.rollout_id] = attempt
        self._attempts[key] = attempt
        changes = self.changes
        if key in changes.new_attempts:
            changes.new_attempts[key] = attempt
        else:
            changes.attempts[key] = attempt

    def remove_attempt(self, attempt: Attempt) -> None:
        """Undo an attempt that nobody will ever know of."""
        self._latest.pop(attempt.rollout_id, None)
        self.changes.removed_attempts.append(attempt)

    async def take_away(
        self, rollout: Rollout, attempt: Attempt, *, heir: str | None = None
    ) -> None:
        """End an attempt under way that its worker has to give up.

        Args:
            rollout: As it is now, which says how the attempt ends.
            attempt: A live one.
            heir: The worker that goes on with the rollout; it is not let go.
        """
        ended = on_taken_away(rollout, attempt, now=self.now)
        self.put_attempt(ended)
        self.attempt_event("attempt_updated", rollout, ended)
        if heir is None or ended.worker_id != heir:
            await self.release_worker(ended, taken=True)

    async def apply(self, rollout: Rollout, attempt: Attempt, outcome: Outcome) -> None:
        """Store what a lifecycle function decided about these two records."""
        if outcome.attempt is not attempt:
            self.put_attempt(outcome.attempt)
            if outcome.attempt.status != attempt.status:
                self.attempt_event("attempt_updated", outcome.rollout, outcome.attempt)
        if outcome.rollout is not rollout:
            self.put_rollout(outcome.rollout)
        if outcome.requeue:
            await self.queue(rollout.rollout_id)

    def note_deadline(self, rollout: Rollout, attempt: Attempt) -> None:
        """Let the watchdog know when an attempt may be lost."""
        limit = deadline(rollout, attempt)
        if limit is not None:
            self.deadline = limit if self.deadline is None else min(self.deadline, limit)

    # Sequence ids.

    async def load_sequence_ids(self, rollout_ids: Iterable[str]) -> None:
        """Read the highest sequence ids of several rollouts at once."""
        missing = [key for key in rollout_ids if key not in self._sequence_ids]
        if missing:
            self._sequence_ids.update(await self.rows.find_sequence_ids(missing))

    def next_sequence_id(self, rollout_id: str, wanted: int = 0) -> int:
        """Return the sequence id of a rollout's next span, or `wanted` if it has one already.

        The rollout's highest one was loaded before.
        """
        highest = self._sequence_ids[rollout_id]
        number = wanted or highest + 1
        if number > highest:
            self._sequence_ids[rollout_id] = number
            self.changes.sequence_ids[rollout_id] = number
        return number

    # Workers.

    async def worker(self, worker_id: str) -> Worker:
        """Return a worker; an unknown one is a fresh record that is not stored yet."""
        worker = self._workers.get(worker_id)
        if worker is None:
            worker = await self.rows.find_worker(worker_id) or Worker(worker_id=worker_id)
            self._workers[worker_id] = worker
        return worker

    def put_worker(self, worker: Worker, *, before: Worker) -> None:
        """Store a worker, and tell if more than its times changed."""
        self._workers[worker.worker_id] = self.changes.workers[worker.worker_id] = worker
        if worker.status != before.status or (
            worker.current_attempt_id != before.current_attempt_id
        ):
            self.worker_event(worker)

    async def release_worker(self, attempt: Attempt, *, taken: bool = False) -> None:
        """Let the worker of an ended attempt go, unless it has moved on to another."""
        if attempt.worker_id is None:
            return
        before = await self.worker(attempt.worker_id)
        if before.current_attempt_id in {None, attempt.attempt_id}:
            after = worker_state.ended(before, attempt, now=self.now, taken=taken)
            self.put_worker(after, before=before)

    async def occupy_worker(self, worker_id: str, attempt: Attempt, *, claimed: bool) -> None:
        """Note that a worker works on an attempt."""
        before = await self.worker(worker_id)
        after = worker_state.busy(before, attempt, now=self.now, claimed=claimed)
        self.put_worker(after, before=before)

    # Resources.

    async def newest_resources_id(self) -> str | None:
        """Return the id of the snapshot that was published last."""
        if self._newest is None:
            self._newest = (await self.rows.find_newest_resources_id(),)
        return self._newest[0]

    def publish(self, update: ResourcesUpdate, *, old: ResourcesUpdate | None) -> None:
        """Store a snapshot, and keep the one that it takes the place of."""
        if old is not None:
            self.changes.superseded.append(old)
        self.changes.resources.append(update)
        self.changes.told.append(announcements.resources_event(update, self.now))

    # Events.

    def rollout_event(self, kind: StoreEventKind, rollout: Rollout) -> None:
        """Tell of a rollout."""
        self.changes.told.append(announcements.rollout_event(kind, rollout, self.now))

    def attempt_event(
        self,
        kind: StoreEventKind,
        rollout: Rollout,
        attempt: Attempt,
        *,
        count: int | None = None,
    ) -> None:
        """Tell of an attempt, and of `count` spans that it got."""
        event = announcements.attempt_event(kind, rollout, attempt, self.now, count=count)
        self.changes.told.append(event)

    def worker_event(self, worker: Worker) -> None:
        """Tell of a worker."""
        self.changes.told.append(announcements.worker_event(worker, self.now))


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    if len(ids) <= _BATCH:
        return (ids,) if ids else ()
    unique = list(dict.fromkeys(ids))
    return (unique[start : start + _BATCH] for start in range(0, len(unique), _BATCH))
