"""The tables that are no collections: the queue, the counters, and the event journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, cast

import orjson
from sqlalchemy import ClauseElement, Dialect, Integer, bindparam, delete, func, insert, select

from agentlightning.errors import ConflictError
from agentlightning.store.collections.kinds import EventJournal, KeyValue, Queue, offset_after
from agentlightning.store.collections.sql import upkeep
from agentlightning.store.collections.sql.schema import (
    events,
    rollout_queue,
    span_sequence_ids,
    totals,
)
from agentlightning.store.collections.sql.statement import Executor, Statement, first, upsert
from agentlightning.store.collections.sql.table import Runner
from agentlightning.store.collections.sql.text import from_text, to_text
from agentlightning.store.collections.sql.totals import (
    EVENTS,
    GATHER_EVERY,
    Totals,
    counts_with_events,
    gather,
)
from agentlightning.store.record import build
from agentlightning.types import StoreEvent

KEPT_EVENTS: Final = 200_000
PRUNE_EVERY: Final = 4096


class SqlQueue(Queue[str]):
    """The queue of rollout ids."""

    _c = rollout_queue.c
    _has = Statement(select(_c.ordinal).where(_c.value == bindparam("item")).limit(1), "item")
    _front = Statement(
        select(_c.ordinal, _c.value).order_by(_c.ordinal).limit(bindparam("count", type_=Integer)),
        "count",
    )
    _remove = Statement(delete(rollout_queue).where(_c.ordinal == bindparam("place")), "place")
    _insert = Statement(insert(rollout_queue).values(value=bindparam("item")), "item")
    _size = Statement(select(func.count()).select_from(rollout_queue))

    def __init__(self, run: Runner) -> None:
        self._run = run

    def item_type(self) -> type[str]:
        return str

    async def has(self, item: str) -> bool:
        return await self._run(
            lambda executor: first(executor, self._has, (item,)) is not None, write=False
        )

    async def enqueue(self, items: Sequence[str]) -> Sequence[str]:
        for item in cast("Sequence[object]", items):
            if not isinstance(item, str):
                raise TypeError(f"The queue holds str, not {type(item).__name__}.")
        if items:
            rows = [(item,) for item in items]
            await self._run(lambda executor: executor.change_many(self._insert, rows), write=True)
        return items

    def _take(self, executor: Executor, limit: int) -> list[str]:
        front = executor.rows(self._front, (limit,))
        executor.change_many(self._remove, [(place,) for place, _ in front])
        return [value for _, value in front]

    async def dequeue(self, limit: int = 1) -> Sequence[str]:
        if limit <= 0:
            return []
        return await self._run(lambda executor: self._take(executor, limit), write=True)

    async def peek(self, limit: int = 1) -> Sequence[str]:
        count = max(limit, 0)
        return await self._run(
            lambda executor: [value for _, value in executor.rows(self._front, (count,))],
            write=False,
        )

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, str]]:
        start = offset_after(after)
        return await self._run(
            lambda executor: upkeep.scan_queue(executor, start, limit), write=False
        )

    async def size(self) -> int:
        return await self._run(lambda executor: first(executor, self._size), write=False)


class SqlCounters(KeyValue[str, int]):
    """The sequence ids of the rollouts' spans."""

    _c = span_sequence_ids.c
    _get = Statement(select(_c.value).where(_c.key == bindparam("name")), "name")
    _put = upsert(span_sequence_ids, ("key", "value"), ("key",))
    _delete = Statement(delete(span_sequence_ids).where(_c.key == bindparam("name")), "name")
    _size = Statement(select(func.count()).select_from(span_sequence_ids))

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def has(self, key: str) -> bool:
        return await self.get(key) is not None

    async def get(self, key: str, default: int | None = None) -> int | None:
        found = await self._run(lambda executor: first(executor, self._get, (key,)), write=False)
        return default if found is None else found

    async def set(self, key: str, value: int) -> None:
        await self._change(key, lambda _: self._number(value))

    def _number(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Counters hold int, not {type(value).__name__}.")
        return value

    async def _change(self, key: str, change: Callable[[int | None], int]) -> int:
        def work(executor: Executor) -> int:
            present = first(executor, self._get, (key,))
            value = change(present)
            if value != present:
                executor.change(self._put, (key, value))
            return value

        return await self._run(work, write=True)

    async def inc(self, key: str, amount: int) -> int:
        step = self._number(amount)
        return await self._change(key, lambda present: (present or 0) + step)

    async def chmax(self, key: str, value: int) -> int:
        number = self._number(value)
        return await self._change(
            key, lambda present: number if present is None else max(present, number)
        )

    async def pop(self, key: str, default: int | None = None) -> int | None:
        def work(executor: Executor) -> int | None:
            found = first(executor, self._get, (key,))
            executor.change(self._delete, (key,))
            return default if found is None else found

        return await self._run(work, write=True)

    async def size(self) -> int:
        return await self._run(lambda executor: first(executor, self._size), write=False)


_EVENT_FIELDS: Final = tuple(name for name in StoreEvent.model_fields if name != "seq")
_event_values: Final = itemgetter(*_EVENT_FIELDS)


def events_text(new: Sequence[StoreEvent]) -> str:
    """Return events as JSON, without their numbers and the names of their fields."""
    rows = [list(_event_values(event.__dict__)) for event in new]
    if any(event.data.get("metadata") for event in new):
        return to_text(rows, "StoreEvent")
    # Perf: only metadata can hold what the fast library cannot write.
    return orjson.dumps(rows).decode()


def _event(seq: int, values: Sequence[Any]) -> StoreEvent:
    return build(StoreEvent, {"seq": seq, **dict(zip(_EVENT_FIELDS, values, strict=True))})


def _last_number(dialect: Dialect) -> ClauseElement:
    if dialect.name == "sqlite":
        return select(func.max(events.c.seq))
    return select(totals.c.value).where(totals.c.name == EVENTS)


class SqlJournal(EventJournal):
    """Events in a table, those of one step in one row; the last 200,000 at least are kept."""

    _c = events.c
    _number = Statement(_last_number)
    _oldest = Statement(select(_c.seq, _c.count).order_by(_c.seq).limit(1))
    _after = Statement(
        select(_c.seq, _c.body)
        .where(_c.seq > bindparam("after"))
        .order_by(_c.seq)
        .limit(bindparam("most", type_=Integer)),
        "after",
        "most",
    )
    _insert = Statement(
        insert(events).values(
            seq=bindparam("seq"),
            count=bindparam("n"),
            body=bindparam("body"),
            counts=bindparam("counts"),
        ),
        "seq",
        "n",
        "body",
        "counts",
    )
    _prune = Statement(delete(events).where(_c.seq <= bindparam("upto")), "upto")

    def __init__(self, run: Runner) -> None:
        self._run = run

    @classmethod
    def last(cls, executor: Executor) -> int:
        """Return the newest event's number; 0 when there was none."""
        return first(executor, cls._number) or 0

    @classmethod
    def before(cls, executor: Executor, count: int) -> int:
        """Return the newest event's number before those that have just been counted."""
        last = cls.last(executor)
        return last if counts_with_events(executor) else last - count

    @classmethod
    def add(
        cls,
        executor: Executor,
        new: Sequence[StoreEvent],
        before: int,
        counts: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Number events and keep them; they have been counted.

        Args:
            executor: The transaction.
            new: The events.
            before: The number of the last event that is older.
            counts: What is to be counted with them; see `counts_with_events`.
        """
        last = before + len(new)
        for seq, event in enumerate(new, before + 1):
            # Perf: a model's own setter takes a microsecond.
            vars(event)["seq"] = seq
        body = events_text(new)
        kept = orjson.dumps(dict(counts)).decode() if counts else None
        executor.change(cls._insert, (last, len(new), body, kept))
        if last // GATHER_EVERY != before // GATHER_EVERY and counts_with_events(executor):
            gather(executor, last)
        if last // PRUNE_EVERY != before // PRUNE_EVERY:
            executor.change(cls._prune, (last - KEPT_EVENTS,))

    async def append(self, events: Sequence[StoreEvent]) -> None:
        def work(executor: Executor) -> None:
            Totals().flush(executor, len(events))
            self.add(executor, events, self.before(executor, len(events)))

        if events:
            await self._run(work, write=True)

    def _read(self, executor: Executor, after: int, limit: int) -> list[StoreEvent]:
        oldest = executor.rows(self._oldest)
        begin = oldest[0][0] - oldest[0][1] + 1 if oldest else 1
        if after + 1 < begin:
            raise ConflictError(
                f"Events {after + 1} to {begin - 1} are no longer kept; "
                "read the records anew and subscribe from now on."
            )
        found: list[StoreEvent] = []
        for seq, body in executor.rows(self._after, (after, limit)):
            stored = from_text(body)
            number = seq - len(stored)
            for values in stored:
                number += 1
                if number > after:
                    found.append(_event(number, values))
            if len(found) >= limit:
                break
        return found[:limit]

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        return await self._run(lambda executor: self._read(executor, after, limit), write=False)

    async def last_seq(self) -> int:
        return await self._run(self.last, write=False)
