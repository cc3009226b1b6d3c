"""The tables that are no collections: the queue, the counters, and the event journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from sqlalchemy import Connection, Integer, bindparam, delete, func, insert, select, update

from agentlightning.errors import ConflictError
from agentlightning.store.collections.base import EventJournal, KeyValue, Queue
from agentlightning.store.collections.sql.codec import decode, encode
from agentlightning.store.collections.sql.schema import events, rollout_queue, span_sequence_ids
from agentlightning.store.collections.sql.statement import Statement
from agentlightning.store.collections.sql.table import Runner
from agentlightning.types import StoreEvent

KEPT_EVENTS: Final = 200_000
_PRUNE_EVERY: Final = 4096


class SqlQueue(Queue[str]):
    """The queue of rollout ids."""

    _c = rollout_queue.c
    _has = Statement(select(_c.ordinal).where(_c.value == bindparam("item")).limit(1))
    _front = Statement(
        select(_c.ordinal, _c.value).order_by(_c.ordinal).limit(bindparam("count", type_=Integer))
    )
    _remove = Statement(delete(rollout_queue).where(_c.ordinal <= bindparam("last")))
    _insert = Statement(insert(rollout_queue).values(value=bindparam("item")))
    _size = Statement(select(func.count()).select_from(rollout_queue))

    def __init__(self, run: Runner) -> None:
        self._run = run

    def item_type(self) -> type[str]:
        return str

    async def has(self, item: str) -> bool:
        return await self._run(
            lambda connection: self._has.scalar(connection, {"item": item}) is not None,
            write=False,
        )

    async def enqueue(self, items: Sequence[str]) -> Sequence[str]:
        for item in cast("Sequence[object]", items):
            if not isinstance(item, str):
                raise TypeError(f"The queue holds str, not {type(item).__name__}.")
        if items:
            rows = [{"item": item} for item in items]
            await self._run(
                lambda connection: self._insert.change_many(connection, rows), write=True
            )
        return items

    def _take(self, connection: Connection, limit: int) -> list[str]:
        front = self._front.rows(connection, {"count": limit})
        if front:
            # The queue is read and cut under the write lock, so the front is all there is before.
            self._remove.change(connection, {"last": front[-1][0]})
        return [value for _, value in front]

    async def dequeue(self, limit: int = 1) -> Sequence[str]:
        if limit <= 0:
            return []
        return await self._run(lambda connection: self._take(connection, limit), write=True)

    async def peek(self, limit: int = 1) -> Sequence[str]:
        count = max(limit, 0)
        return await self._run(
            lambda connection: [
                value for _, value in self._front.rows(connection, {"count": count})
            ],
            write=False,
        )

    async def size(self) -> int:
        return await self._run(lambda connection: self._size.scalar(connection, {}), write=False)


class SqlCounters(KeyValue[str, int]):
    """The sequence ids of the rollouts' spans."""

    _c = span_sequence_ids.c
    _get = Statement(select(_c.value).where(_c.key == bindparam("name")))
    _set = Statement(
        update(span_sequence_ids).where(_c.key == bindparam("name")).values(value=bindparam("new"))
    )
    _insert = Statement(
        insert(span_sequence_ids).values(key=bindparam("name"), value=bindparam("new"))
    )
    _delete = Statement(delete(span_sequence_ids).where(_c.key == bindparam("name")))
    _size = Statement(select(func.count()).select_from(span_sequence_ids))

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def has(self, key: str) -> bool:
        return await self.get(key) is not None

    async def get(self, key: str, default: int | None = None) -> int | None:
        found = await self._run(lambda connection: self._read(connection, key), write=False)
        return default if found is None else found

    def _read(self, connection: Connection, key: str) -> int | None:
        return self._get.scalar(connection, {"name": key})

    def _write(self, connection: Connection, key: str, value: int) -> int:
        parameters = {"name": key, "new": value}
        if not self._set.change(connection, parameters):
            self._insert.change(connection, parameters)
        return value

    async def set(self, key: str, value: int) -> None:
        await self._change(key, lambda _: self._number(value))

    def _number(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Counters hold int, not {type(value).__name__}.")
        return value

    async def _change(self, key: str, change: Callable[[int | None], int]) -> int:
        def work(connection: Connection) -> int:
            present = self._read(connection, key)
            value = change(present)
            return value if value == present else self._write(connection, key, value)

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
        def work(connection: Connection) -> int | None:
            found = self._read(connection, key)
            self._delete.change(connection, {"name": key})
            return default if found is None else found

        return await self._run(work, write=True)

    async def size(self) -> int:
        return await self._run(lambda connection: self._size.scalar(connection, {}), write=False)


class SqlJournal(EventJournal):
    """Events in a table; the last 200,000 at least are kept."""

    _c = events.c
    _last = Statement(select(func.max(_c.seq)))
    _oldest = Statement(select(func.min(_c.seq)))
    _after = Statement(
        select(_c.payload)
        .where(_c.seq > bindparam("after"))
        .order_by(_c.seq)
        .limit(bindparam("count", type_=Integer))
    )
    _insert = Statement(insert(events).values(seq=bindparam("seq"), payload=bindparam("payload")))
    _prune = Statement(delete(events).where(_c.seq <= bindparam("upto")))

    def __init__(self, run: Runner) -> None:
        self._run = run

    def _append(self, connection: Connection, new: Sequence[StoreEvent]) -> None:
        last = before = self._last.scalar(connection, {}) or 0
        for event in new:
            last += 1
            event.seq = last
        rows = [{"seq": event.seq, "payload": encode(event)} for event in new]
        self._insert.change_many(connection, rows)
        if last // _PRUNE_EVERY != before // _PRUNE_EVERY:
            self._prune.change(connection, {"upto": last - KEPT_EVENTS})

    async def append(self, events: Sequence[StoreEvent]) -> None:
        if events:
            await self._run(lambda connection: self._append(connection, events), write=True)

    def _read(self, connection: Connection, after: int, limit: int) -> list[StoreEvent]:
        oldest = self._oldest.scalar(connection, {}) or 1
        if after + 1 < oldest:
            raise ConflictError(
                f"Events {after + 1} to {oldest - 1} are no longer kept; "
                "read the records anew and subscribe from now on."
            )
        found = self._after.rows(connection, {"after": after, "count": limit})
        return [decode(StoreEvent, text) for (text,) in found]

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        return await self._run(lambda connection: self._read(connection, after, limit), write=False)

    async def last_seq(self) -> int:
        return await self._run(
            lambda connection: self._last.scalar(connection, {}) or 0, write=False
        )
