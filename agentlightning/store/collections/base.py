"""The seam under collection-based stores: all that a storage backend has to provide.

Derive from `LightningCollections` to keep a store's data somewhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeVar, get_args

from agentlightning.store.collections.changes import Changes, Reply, by_id
from agentlightning.store.collections.codec import encode
from agentlightning.store.collections.filtering import has_pairs
from agentlightning.store.collections.kinds import (
    BackendFault,
    Collection,
    DuplicatedPrimaryKeyError,
    EventJournal,
    KeyValue,
    Queue,
)
from agentlightning.types import (
    Attempt,
    ResourcesUpdate,
    Rollout,
    RolloutStatus,
    Span,
    Worker,
)

__all__ = [
    "AtomicLabels",
    "AtomicMode",
    "Collection",
    "DuplicatedPrimaryKeyError",
    "EventJournal",
    "KeyValue",
    "LightningCollections",
    "Queue",
]

R = TypeVar("R")

_BATCH = 500
"""Ids per query, well below the parameter limits of databases."""

AtomicMode = Literal["r", "w", "rw"]
AtomicLabels = Literal[
    "rollouts",
    "attempts",
    "spans",
    "resources",
    "workers",
    "rollout_queue",
    "span_sequence_ids",
    "generic",
]


class LightningCollections:
    """All collections of one store, and atomic blocks over them.

    A backend that only implements what 0.3.0 asked for keeps working: `resource_versions` and
    `events` have defaults, at the cost of superseded resources and of events from before a
    restart.
    """

    loop_agnostic: bool = False
    """Calls may come from any thread and event loop, several at once."""

    keeps_replies: bool = False
    """`apply` keeps the reply, and `find_reply` in a later block finds it."""

    @property
    def rollouts(self) -> Collection[Rollout]:
        """Rollouts by `rollout_id`."""
        raise NotImplementedError

    @property
    def attempts(self) -> Collection[Attempt]:
        """Attempts by `rollout_id` and `attempt_id`."""
        raise NotImplementedError

    @property
    def spans(self) -> Collection[Span]:
        """Spans by `rollout_id`, `attempt_id` and `span_id`."""
        raise NotImplementedError

    @property
    def resources(self) -> Collection[ResourcesUpdate]:
        """The newest version of each snapshot, by `resources_id`."""
        raise NotImplementedError

    @property
    def workers(self) -> Collection[Worker]:
        """Workers by `worker_id`."""
        raise NotImplementedError

    @property
    def rollout_queue(self) -> Queue[str]:
        """Ids of rollouts that wait to be claimed; may hold ids that no longer do."""
        raise NotImplementedError

    @property
    def span_sequence_ids(self) -> KeyValue[str, int]:
        """The highest sequence id of each rollout's spans."""
        raise NotImplementedError

    @property
    def resource_versions(self) -> Collection[ResourcesUpdate] | None:
        """Superseded snapshots by `resources_id` and `version`; None keeps none of them."""
        return None

    @property
    def events(self) -> EventJournal | None:
        """The store's events; None lets the store keep them in its own memory."""
        return None

    def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[LightningCollections]:
        """Open a block whose operations happen together.

        Args:
            mode: Read, write or both.
            snapshot: All reads of the block see the same moment.
            commit: Commit at the end; backends without transactions ignore it.
            labels: The collections that the block uses; None means all of them.
            kwargs: Whatever a backend understands besides.
        """
        raise NotImplementedError

    async def execute(
        self,
        callback: Callable[[LightningCollections], Awaitable[R]],
        *,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> R:
        """Run `callback` in an atomic block; a backend may run it again after a conflict.

        The callback awaits operations of the collections it is given and nothing else.
        """
        async with self.atomic(
            mode=mode, snapshot=snapshot, commit=commit, labels=labels, **kwargs
        ) as collections:
            return await callback(collections)

    # What the store asks for. A backend may answer faster than these do.

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        """Return the rollouts that exist, by id. In a writing block they are the caller's to
        change until it ends: backends that run blocks side by side lock them or check later.
        """
        if len(rollout_ids) == 1:
            found = await self.rollouts.get({"rollout_id": {"exact": rollout_ids[0]}})
            return {} if found is None else {found.rollout_id: found}
        rollouts: dict[str, Rollout] = {}
        for start in range(0, len(rollout_ids), _BATCH):
            batch = list(rollout_ids[start : start + _BATCH])
            rollouts.update(by_id(await self.rollouts.query({"rollout_id": {"within": batch}})))
        return rollouts

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        """Return an attempt."""
        return await self.attempts.get(
            {"rollout_id": {"exact": rollout_id}, "attempt_id": {"exact": attempt_id}}
        )

    async def find_latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        """Return each rollout's attempt with the highest sequence id, where it has one."""
        latest: dict[str, Attempt] = {}
        for start in range(0, len(rollout_ids), _BATCH):
            batch = list(rollout_ids[start : start + _BATCH])
            for attempt in await self.attempts.query({"rollout_id": {"within": batch}}):
                known = latest.get(attempt.rollout_id)
                if known is None or known.sequence_id < attempt.sequence_id:
                    latest[attempt.rollout_id] = attempt
        return latest

    async def find_worker(self, worker_id: str) -> Worker | None:
        """Return a worker."""
        return await self.workers.get({"worker_id": {"exact": worker_id}})

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        """Return the snapshot that was published last. Backends that run blocks side by side keep
        other publishers out of a writing block that asked this, or check later.
        """
        return await self.resources.get(sort={"name": "update_time", "order": "desc"})

    async def find_newest_resources_id(self) -> str | None:
        """Return the id of the snapshot that was published last; asked by every enqueue and by
        claims, which need no more and keep nobody out.
        """
        newest = await self.find_newest_resources()
        return None if newest is None else newest.resources_id

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        """Return ids from the queue, in order; backends that run blocks side by side leave out
        what another block is about to take.

        Args:
            limit: How many at most.
            offset: How many to pass over: those that this block was given before.
            metadata: Only ids of rollouts whose metadata holds all of these pairs; given by name,
                and only when there are any. What is left out stays free for others to take.
        """
        if metadata is None:
            return (await self.rollout_queue.peek(offset + limit))[offset:]
        matching: list[str] = []
        seen = 0
        while len(matching) < offset + limit:
            ids = (await self.rollout_queue.peek(seen + _BATCH))[seen:]
            if not ids:
                break
            seen += len(ids)
            rollouts = await self.find_rollouts(ids)
            matching.extend(
                rollout_id
                for rollout_id in ids
                if rollout_id in rollouts and has_pairs(rollouts[rollout_id].metadata, metadata)
            )
        return matching[offset : offset + limit]

    async def find_active(self) -> list[tuple[Rollout, Attempt]]:
        """Return the rollouts that are preparing or running, each with its latest attempt."""
        active = await self.rollouts.query({"status": {"within": ["preparing", "running"]}})
        latest = await self.find_latest_attempts([rollout.rollout_id for rollout in active])
        return [
            (rollout, latest[rollout.rollout_id])
            for rollout in active
            if rollout.rollout_id in latest
        ]

    async def find_sequence_ids(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        """Return the highest sequence id of each rollout's spans, 0 where there is none. In a
        writing block the rollout was asked for before, and guards its number.
        """
        return {key: await self.span_sequence_ids.get(key, 0) or 0 for key in rollout_ids}

    async def find_known_spans(
        self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]
    ) -> set[str]:
        """Return which of an attempt's spans are stored."""
        known: set[str] = set()
        for start in range(0, len(span_ids), _BATCH):
            batch = list(span_ids[start : start + _BATCH])
            found = await self.spans.query(
                {
                    "rollout_id": {"exact": rollout_id},
                    "attempt_id": {"exact": attempt_id},
                    "span_id": {"within": batch},
                }
            )
            known.update(span.span_id for span in found)
        return known

    async def find_reply(self, key: str) -> Reply | None:
        """Return what a call with this idempotency key answered; None where none is kept."""
        return None

    async def apply(self, changes: Changes) -> None:
        """Write everything, within the atomic block; called at most once, at its end.

        Events get their `seq`. This one uses the collections, for backends that have no better;
        it keeps no replies, so that `find_reply` finds none.

        Raises:
            DuplicatedPrimaryKeyError: Somebody else inserted one of the new records, or a reply
                of the same key, since the step looked. The store then runs the step once more.
        """
        await self._apply_rollouts(changes)
        if changes.new_spans:
            await self.spans.insert(changes.new_spans)
        for rollout_id, highest in changes.sequence_ids.items():
            await self.span_sequence_ids.chmax(rollout_id, highest)
        if changes.workers:
            await self.workers.upsert(list(changes.workers.values()))
        if changes.superseded and self.resource_versions is not None:
            await self.resource_versions.insert(changes.superseded)
        if changes.resources:
            await self.resources.upsert(changes.resources)
        await self._apply_queue(changes)
        if changes.events and self.events is not None:
            await self.events.append(changes.events)

    async def _apply_rollouts(self, changes: Changes) -> None:
        if changes.new_rollouts:
            await self.rollouts.insert(list(changes.new_rollouts.values()))
        if changes.rollouts:
            await self.rollouts.update(list(changes.rollouts.values()))
        if changes.removed_attempts:
            await self.attempts.delete(changes.removed_attempts)
        if changes.new_attempts:
            await self.attempts.insert(list(changes.new_attempts.values()))
        if changes.attempts:
            await self.attempts.update(list(changes.attempts.values()))

    async def _apply_queue(self, changes: Changes) -> None:
        line, taken = self.rollout_queue, changes.unqueued
        stay: list[str] = []
        if taken and list(await line.peek(len(taken))) == taken:
            await line.dequeue(len(taken))
        elif taken:
            # Only claims that pass some over meet this: a queue has no other way to keep places.
            gone = set(taken)
            stay = [key for key in await line.dequeue(await line.size()) if key not in gone]
        if stay or changes.queued:
            await line.enqueue([*stay, *changes.queued])

    # What is asked for seldom: statistics and retention.

    async def count_by_status(self) -> dict[str, int]:
        """Return how many rollouts have each status; those that none has may be left out."""
        counts: dict[str, int] = {}
        for status in get_args(RolloutStatus):
            page = await self.rollouts.query({"status": {"exact": status}}, limit=0)
            counts[status] = page.total
        return counts

    async def find_storage_bytes(self) -> int | None:
        """Return what the store takes on disk; None when that is not known."""
        return None

    async def find_span_bytes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        """Return about how many bytes each rollout's spans take."""
        sizes: dict[str, int] = {}
        for rollout_id in rollout_ids:
            spans = await self.spans.query({"rollout_id": {"exact": rollout_id}})
            sizes[rollout_id] = sum(len(encode(span)) for span in spans)
        return sizes

    async def remove(self, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
        """Remove all spans of rollouts, or all that there is of the rollouts, at once; they were
        asked for in the same writing block. Events stay.

        Returns:
            How many spans were removed.
        """
        removed = 0
        for rollout_id in rollout_ids:
            owned = {"rollout_id": {"exact": rollout_id}}
            spans = await self.spans.query(owned)
            await self.spans.delete(spans)
            removed += len(spans)
            if spans_only:
                continue
            await self.attempts.delete(await self.attempts.query(owned))
            await self.rollouts.delete(await self.rollouts.query(owned))
            await self.span_sequence_ids.pop(rollout_id)
        return removed

    async def find_faults(self) -> Sequence[BackendFault]:
        """Return what is wrong with what the backend keeps beside the records; may take long."""
        return []

    async def mend(self) -> None:
        """Mend the faults that can be mended without losing anything; in a writing block."""

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        """Call `notify` whenever somebody else committed events, until the returned callable is
        called.

        "Somebody else" is another process, or another store object of this one; a call too many
        does no harm. `notify` is quick, safe from any thread, and must not be called within an
        atomic block. Called at most once at a time, when the first caller waits for something.

        Returns:
            What stops the watch, or None when the backend cannot tell; waiting calls then look
            by themselves every few seconds.
        """
        return None

    async def close(self) -> None:
        """Release what the backend holds; idempotent."""
