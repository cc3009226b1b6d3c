"""The seam under collection-based stores: what a storage backend has to provide.

Derive from these classes to keep a store's data somewhere else. Methods are coroutines; within
an atomic block they must be awaited one after the other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from agentlightning.errors import ConflictError
from agentlightning.store.collections.changes import Changes, Reply, by_id
from agentlightning.types import (
    Attempt,
    FilterOptions,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    SortOptions,
    Span,
    StoreEvent,
    Worker,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
K = TypeVar("K")
V = TypeVar("V")
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


class DuplicatedPrimaryKeyError(ConflictError):
    """An insert met a record that has the same primary key."""

    code = "conflict"


class Collection(Generic[M]):
    """Records of one type, told apart by a primary key and kept in order of insertion."""

    def primary_keys(self) -> Sequence[str]:
        """Return the fields that identify a record."""
        raise NotImplementedError

    def item_type(self) -> type[M]:
        """Return the records' class."""
        raise NotImplementedError

    async def size(self) -> int:
        """Return how many records there are."""
        raise NotImplementedError

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        """Return a page of the records that match, in order of insertion unless sorted."""
        raise NotImplementedError

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        """Return the first record that matches, or None."""
        raise NotImplementedError

    async def insert(self, items: Sequence[M]) -> None:
        """Add records, all or none.

        Raises:
            DuplicatedPrimaryKeyError: One of them is there already, or is given twice.
        """
        raise NotImplementedError

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        """Replace records, or only some fields of them, and return them as stored.

        Raises:
            NotFoundError: One of them is not there.
        """
        raise NotImplementedError

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        """Insert records or update those that are there, and return them as stored.

        Args:
            items: Records with complete primary keys.
            update_fields: Fields to take over into an existing record; None for all of them, and
                an empty list leaves it as it is.
        """
        raise NotImplementedError

    async def delete(self, items: Sequence[M]) -> None:
        """Remove records, by their primary keys.

        Raises:
            NotFoundError: One of them is not there.
        """
        raise NotImplementedError


class Queue(Generic[T]):
    """Values in line, first in, first out."""

    def item_type(self) -> type[T]:
        """Return the values' class."""
        raise NotImplementedError

    async def has(self, item: T) -> bool:
        """Return whether a value is in line."""
        raise NotImplementedError

    async def enqueue(self, items: Sequence[T]) -> Sequence[T]:
        """Append values and return them."""
        raise NotImplementedError

    async def dequeue(self, limit: int = 1) -> Sequence[T]:
        """Remove and return up to `limit` values from the front."""
        raise NotImplementedError

    async def peek(self, limit: int = 1) -> Sequence[T]:
        """Return up to `limit` values from the front and leave them there."""
        raise NotImplementedError

    async def size(self) -> int:
        """Return how many values are in line."""
        raise NotImplementedError


class KeyValue(Generic[K, V]):
    """Values by key, with atomic counters."""

    async def has(self, key: K) -> bool:
        """Return whether a key has a value."""
        raise NotImplementedError

    async def get(self, key: K, default: V | None = None) -> V | None:
        """Return a key's value, or the default."""
        raise NotImplementedError

    async def set(self, key: K, value: V) -> None:
        """Give a key a value."""
        raise NotImplementedError

    async def inc(self, key: K, amount: V) -> V:
        """Add to a key's number, which starts at 0, and return the sum.

        Raises:
            TypeError: The amount or the present value is not a number.
        """
        raise NotImplementedError

    async def chmax(self, key: K, value: V) -> V:
        """Raise a key's number to at least `value`, and return what it is then.

        Raises:
            TypeError: The value or the present one is not a number.
        """
        raise NotImplementedError

    async def pop(self, key: K, default: V | None = None) -> V | None:
        """Remove a key and return its value, or the default."""
        raise NotImplementedError

    async def size(self) -> int:
        """Return how many keys there are."""
        raise NotImplementedError


class EventJournal:
    """The store's events in order, kept for a while."""

    async def append(self, events: Sequence[StoreEvent]) -> None:
        """Give each event the next `seq` and keep it; part of the atomic block, if in one."""
        raise NotImplementedError

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        """Return kept events with `seq` beyond `after`, in order.

        Raises:
            ConflictError: Events directly after `after` are no longer kept.
        """
        raise NotImplementedError

    async def last_seq(self) -> int:
        """Return the newest event's `seq`; 0 when there was none."""
        raise NotImplementedError


class LightningCollections:
    """All collections of one store, and atomic blocks over them.

    A backend that only implements what 0.3.0 asked for keeps working: `resource_versions` and
    `events` have defaults, at the cost of superseded resources and of events from before a
    restart.
    """

    loop_agnostic: bool = False
    """Calls may come from any thread and event loop, several at once."""

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
        return by_id(await self.rollouts.query({"rollout_id": {"within": rollout_ids}}))

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
        """Return the snapshot that was published last."""
        return await self.resources.get(sort={"name": "update_time", "order": "desc"})

    async def find_queued(self, limit: int, offset: int = 0) -> Sequence[str]:
        """Return ids from the queue, in order; backends that run blocks side by side leave out
        what another block is about to take.
        """
        return (await self.rollout_queue.peek(offset + limit))[offset:]

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

        Events get their `seq`. This one uses the collections, for backends that have no better.
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
        left = set(changes.unqueued)
        passed: list[str] = []
        while left:
            front = await self.rollout_queue.dequeue(1)
            if not front:
                break
            if front[0] in left:
                left.discard(front[0])
            else:
                passed.append(front[0])
        # What was in between keeps its order but loses its place; only filtered claims meet it.
        if passed or changes.queued:
            await self.rollout_queue.enqueue([*passed, *changes.queued])

    async def close(self) -> None:
        """Release what the backend holds; idempotent."""


FilterMapping = Mapping[str, Any]
CollectionsContext = AsyncIterator[LightningCollections]
