"""Collections in this process's memory: nothing survives the process, nothing is rolled back.

Every operation runs to its end without suspending, under one lock that threads share, so an
atomic step costs no more than its own work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from itertools import islice
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar, cast

from agentlightning._internal.aio import CrossLoopLock, drive
from agentlightning.store.collections.base import (
    AtomicLabels,
    AtomicMode,
    Collection,
    EventJournal,
    KeyValue,
    LightningCollections,
    Queue,
)
from agentlightning.store.collections.changes import Changes, Reply
from agentlightning.store.collections.filtering import has_pairs
from agentlightning.store.collections.memory_journal import MemoryJournal
from agentlightning.store.collections.span_table import SpanTable
from agentlightning.store.collections.table import ListBasedCollection
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

KEPT_REPLIES = 16_384
"""How many answers to calls with an idempotency key are kept; about 10 MB at most."""


_sequence_id: Final[Callable[[Attempt], int]] = attrgetter("sequence_id")
_update_time: Final[Callable[[ResourcesUpdate], float]] = attrgetter("update_time")


class DequeBasedQueue(Queue[T]):
    """A queue in memory; looking a value up takes no scan."""

    def __init__(
        self,
        item_type: type[T],
        items: Sequence[T] | None = None,
        id: str | None = None,
        tracker: Any = None,
    ) -> None:
        self._item_type = item_type
        self._items: deque[T] = deque()
        self._counts: dict[T, int] = {}
        self.add(items or ())

    def item_type(self) -> type[T]:
        return self._item_type

    async def has(self, item: T) -> bool:
        return item in self._counts

    async def enqueue(self, items: Sequence[T]) -> Sequence[T]:
        for item in items:
            if not isinstance(item, self._item_type):
                raise TypeError(
                    f"The queue holds {self._item_type.__name__}, not {type(item).__name__}."
                )
        self.add(items)
        return items

    async def dequeue(self, limit: int = 1) -> Sequence[T]:
        taken = [self._items.popleft() for _ in range(min(max(limit, 0), len(self._items)))]
        for item in taken:
            self._forget(item)
        return taken

    async def peek(self, limit: int = 1) -> Sequence[T]:
        return list(islice(self._items, max(limit, 0)))

    async def size(self) -> int:
        return len(self._items)

    def items(self) -> Iterable[T]:
        """Return the values in line, in order."""
        return self._items

    def add(self, items: Iterable[T]) -> None:
        """Put values, known to be of the queue's type, at the end of the line."""
        for item in items:
            self._items.append(item)
            self._counts[item] = self._counts.get(item, 0) + 1

    def remove(self, items: Sequence[T]) -> None:
        """Take values out of the line, wherever they are; the others keep their places."""
        line = self._items
        for item in items:
            if item not in self._counts:
                continue
            if line[0] == item:
                line.popleft()
            else:
                line.remove(item)
            self._forget(item)

    def _forget(self, item: T) -> None:
        self._counts[item] -= 1
        if not self._counts[item]:
            del self._counts[item]


class DictBasedKeyValue(KeyValue[K, V]):
    """Values by key in memory."""

    def __init__(
        self,
        data: dict[K, V] | None = None,
        id: str | None = None,
        tracker: Any = None,
    ) -> None:
        self._data: dict[K, V] = dict(data or {})

    async def has(self, key: K) -> bool:
        return key in self._data

    async def get(self, key: K, default: V | None = None) -> V | None:
        return self._data.get(key, default)

    async def set(self, key: K, value: V) -> None:
        self._data[key] = value

    def _number(self, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"Counters hold numbers, not {type(value).__name__}.")
        return value

    async def inc(self, key: K, amount: V) -> V:
        total = self._number(self._data.get(key, 0)) + self._number(amount)
        self._data[key] = total
        return total

    async def chmax(self, key: K, value: V) -> V:
        present = self._data.get(key)
        number = self._number(value)
        highest = number if present is None else max(self._number(present), number)
        self._data[key] = highest
        return highest

    async def pop(self, key: K, default: V | None = None) -> V | None:
        return self._data.pop(key, default)

    async def size(self) -> int:
        return len(self._data)


class InMemoryLightningCollections(LightningCollections):
    """Everything a store keeps, in memory.

    Args:
        lock_type: Accepted for 0.3.0; both kinds are safe across threads and event loops.
        tracker: Accepted for 0.3.0.
        span_size: Returns the bytes that a span takes; estimated where it is not given.
    """

    loop_agnostic = True
    keeps_replies = True

    def __init__(
        self,
        lock_type: Literal["thread", "asyncio"] = "thread",
        tracker: Any = None,
        *,
        span_size: Callable[[Span], int] | None = None,
    ) -> None:
        self._rollouts = ListBasedCollection([], Rollout, ["rollout_id"], indexes=["status"])
        self._attempts = ListBasedCollection([], Attempt, ["rollout_id", "attempt_id"])
        self._spans = SpanTable(span_size)
        self._resources = ListBasedCollection([], ResourcesUpdate, ["resources_id"])
        self._versions = ListBasedCollection([], ResourcesUpdate, ["resources_id", "version"])
        self._workers = ListBasedCollection([], Worker, ["worker_id"])
        self._queue: DequeBasedQueue[str] = DequeBasedQueue(str)
        self._sequence_ids: DictBasedKeyValue[str, int] = DictBasedKeyValue()
        self._journal = MemoryJournal()
        self._newest: tuple[int, ResourcesUpdate | None] = (-1, None)
        self._replies: dict[str, Reply] = {}
        self._mutex = threading.RLock()
        self._blocks = CrossLoopLock()
        self._block_open = False

    @property
    def rollouts(self) -> Collection[Rollout]:
        return self._rollouts

    @property
    def attempts(self) -> Collection[Attempt]:
        return self._attempts

    @property
    def spans(self) -> SpanTable:
        return self._spans

    @property
    def resources(self) -> ListBasedCollection[ResourcesUpdate]:
        return self._resources

    @property
    def resource_versions(self) -> Collection[ResourcesUpdate]:
        return self._versions

    @property
    def workers(self) -> Collection[Worker]:
        return self._workers

    @property
    def rollout_queue(self) -> Queue[str]:
        return self._queue

    @property
    def span_sequence_ids(self) -> KeyValue[str, int]:
        return self._sequence_ids

    @property
    def events(self) -> EventJournal:
        return self._journal

    @asynccontextmanager
    async def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[LightningCollections]:
        if mode == "r" and not snapshot:
            yield self
            return
        async with self._blocks:
            with self._mutex:
                self._block_open = True
            try:
                yield self
            finally:
                with self._mutex:
                    self._block_open = False

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
        while True:
            with self._mutex:
                if not self._block_open:
                    return drive(cast("Coroutine[Any, Any, R]", callback(self)))
            async with self._blocks:
                pass

    # What the store's steps ask for, straight from the tables.

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        known = self._rollouts.records
        return {key: known[key] for key in rollout_ids if key in known}

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        return self._attempts.records.get((rollout_id, attempt_id))

    async def find_latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        latest: dict[str, Attempt] = {}
        for rollout_id in rollout_ids:
            attempts = self._attempts.group(rollout_id)
            if attempts:
                only = len(attempts) == 1
                latest[rollout_id] = attempts[0] if only else max(attempts, key=_sequence_id)
        return latest

    async def find_worker(self, worker_id: str) -> Worker | None:
        return self._workers.records.get(worker_id)

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        return self._newest_resources()

    async def find_newest_resources_id(self) -> str | None:
        newest = self._newest_resources()
        return None if newest is None else newest.resources_id

    def _newest_resources(self) -> ResourcesUpdate | None:
        resources = self._resources
        if self._newest[0] != resources.revision:
            newest = max(resources.records.values(), key=_update_time, default=None)
            self._newest = (resources.revision, newest)
        return self._newest[1]

    async def find_known_spans(
        self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]
    ) -> set[str]:
        return self._spans.known(rollout_id, attempt_id, span_ids)

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        line = self._queue.items()
        if metadata is not None:
            line = (key for key in line if self._has(key, metadata))
        return list(islice(line, offset, offset + limit))

    def _has(self, rollout_id: str, metadata: Mapping[str, Any]) -> bool:
        rollout = self._rollouts.records.get(rollout_id)
        return rollout is not None and has_pairs(rollout.metadata, metadata)

    async def find_reply(self, key: str) -> Reply | None:
        return self._replies.get(key)

    async def apply(self, changes: Changes) -> None:
        # Nothing in here can fail: the step has looked, and nobody else can write meanwhile.
        self._put_work(changes)
        for span in changes.new_spans:
            self._spans.add(span)
        for rollout_id, highest in changes.sequence_ids.items():
            await self._sequence_ids.set(rollout_id, highest)
        if changes.resources or changes.superseded:
            self._publish(changes)
        if changes.unqueued:
            self._queue.remove(changes.unqueued)
        if changes.queued:
            self._queue.add(changes.queued)
        if changes.reply is not None:
            self._keep(changes.reply)
        if changes.told:
            changes.last_seq = self._journal.add(changes.told)

    def _put_work(self, changes: Changes) -> None:
        # Perf: a step changes few of these, and one that holds nothing costs a look.
        if changes.new_rollouts:
            self._rollouts.put_all(changes.new_rollouts)
        if changes.rollouts:
            self._rollouts.put_all(changes.rollouts)
        for attempt in changes.removed_attempts:
            self._attempts.remove(attempt)
        if changes.new_attempts:
            self._attempts.put_all(changes.new_attempts)
        if changes.attempts:
            self._attempts.put_all(changes.attempts)
        if changes.workers:
            self._workers.put_all(changes.workers)

    def _publish(self, changes: Changes) -> None:
        for snapshot in changes.superseded:
            self._versions.put(snapshot)
        for snapshot in changes.resources:
            self._resources.put(snapshot)

    def _keep(self, reply: Reply) -> None:
        self._replies[reply.key] = reply
        if len(self._replies) > KEPT_REPLIES:
            del self._replies[next(iter(self._replies))]

    async def count_by_status(self) -> dict[str, int]:
        return self._rollouts.counts("status")

    async def find_span_bytes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        return {rollout_id: self._spans.bytes_of(rollout_id) for rollout_id in rollout_ids}

    async def remove(self, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
        removed = sum(self._spans.drop(rollout_id) for rollout_id in rollout_ids)
        if not spans_only:
            for rollout_id in rollout_ids:
                self._attempts.drop_group(rollout_id)
                self._rollouts.drop_group(rollout_id)
                await self._sequence_ids.pop(rollout_id)
        return removed

    async def evict_spans_for_rollout(self, rollout_id: str) -> int:
        """Drop all spans of a rollout; return how many there were."""
        return self._spans.drop(rollout_id)
