"""Collections in this process's memory: nothing survives the process, nothing is rolled back.

Every operation runs to its end without suspending, under one lock that threads share, so an
atomic step costs no more than its own work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Literal, TypeVar, cast

from agentlightning._internal.aio import CrossLoopLock, drive
from agentlightning.errors import ConflictError
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
from agentlightning.store.collections.table import ListBasedCollection
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, StoreEvent, Worker

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")

KEPT_EVENTS = 65_536
"""How many events the journal keeps; about 30 MB at most."""


KEPT_REPLIES = 16_384
"""How many answers to calls with an idempotency key are kept; about 10 MB at most."""


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
        self._items: deque[T] = deque(items or ())
        self._counts: dict[T, int] = {}
        for item in self._items:
            self._counts[item] = self._counts.get(item, 0) + 1

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
        for item in items:
            self._items.append(item)
            self._counts[item] = self._counts.get(item, 0) + 1
        return items

    async def dequeue(self, limit: int = 1) -> Sequence[T]:
        taken = [self._items.popleft() for _ in range(min(max(limit, 0), len(self._items)))]
        for item in taken:
            self._counts[item] -= 1
            if not self._counts[item]:
                del self._counts[item]
        return taken

    async def peek(self, limit: int = 1) -> Sequence[T]:
        return list(islice(self._items, max(limit, 0)))

    async def size(self) -> int:
        return len(self._items)


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


class MemoryJournal(EventJournal):
    """The last events, in memory; safe to use from any thread."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._guard = threading.Lock()
        self._events: deque[StoreEvent] = deque(maxlen=kept)
        self._last = 0

    async def append(self, events: Sequence[StoreEvent]) -> None:
        with self._guard:
            for event in events:
                self._last += 1
                event.seq = self._last
                self._events.append(event)

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        with self._guard:
            oldest = self._last - len(self._events)
            if after < oldest:
                raise ConflictError(
                    f"Events {after + 1} to {oldest} are no longer kept; "
                    "read the records anew and subscribe from now on."
                )
            start = after - oldest
            if start < len(self._events) - start:
                return list(islice(self._events, start, start + limit))
            # Perf: a deque is slow in its middle, so recent events are read from its end.
            tail = list(islice(reversed(self._events), max(len(self._events) - start, 0)))
            return tail[::-1][:limit]

    async def last_seq(self) -> int:
        return self._last


class InMemoryLightningCollections(LightningCollections):
    """Everything a store keeps, in memory.

    Args:
        lock_type: Accepted for 0.3.0; both kinds are safe across threads and event loops.
        tracker: Accepted for 0.3.0.
    """

    loop_agnostic = True

    def __init__(
        self, lock_type: Literal["thread", "asyncio"] = "thread", tracker: Any = None
    ) -> None:
        self._rollouts = ListBasedCollection([], Rollout, ["rollout_id"], indexes=["status"])
        self._attempts = ListBasedCollection([], Attempt, ["rollout_id", "attempt_id"])
        self._spans = ListBasedCollection([], Span, ["rollout_id", "attempt_id", "span_id"])
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
    def spans(self) -> Collection[Span]:
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

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        # Perf: every claim asks, and looking through all snapshots would grow with each update.
        revision = self._resources.revision
        if self._newest[0] != revision:
            self._newest = (revision, await super().find_newest_resources())
        return self._newest[1]

    async def find_reply(self, key: str) -> Reply | None:
        return self._replies.get(key)

    async def apply(self, changes: Changes) -> None:
        await super().apply(changes)
        if changes.reply is not None:
            self._replies[changes.reply.key] = changes.reply
            if len(self._replies) > KEPT_REPLIES:
                del self._replies[next(iter(self._replies))]

    async def evict_spans_for_rollout(self, rollout_id: str) -> int:
        """Drop all spans of a rollout; return how many there were."""
        return self._spans.drop_prefix(rollout_id)
