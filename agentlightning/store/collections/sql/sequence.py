"""The tables that are no collections: the queue, the counters, and the event journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from agentlightning.errors import ConflictError
from agentlightning.store.collections.base import EventJournal, KeyValue, Queue
from agentlightning.store.collections.sql.codec import decode, encode
from agentlightning.store.collections.sql.schema import events, rollout_queue, span_sequence_ids
from agentlightning.store.collections.sql.table import Runner
from agentlightning.types import StoreEvent

KEPT_EVENTS: Final = 200_000
_PRUNE_EVERY: Final = 4096


class SqlQueue(Queue[str]):
    """The queue of rollout ids."""

    _c = rollout_queue.c
    _has = select(_c.ordinal).where(_c.value == bindparam("item")).limit(1)
    _front = select(_c.ordinal, _c.value).order_by(_c.ordinal).limit(bindparam("count"))
    _remove = delete(rollout_queue).where(_c.ordinal <= bindparam("last"))

    def __init__(self, run: Runner) -> None:
        self._run = run

    def item_type(self) -> type[str]:
        return str

    async def has(self, item: str) -> bool:
        return await self._run(
            lambda connection: connection.execute(self._has, {"item": item}).first() is not None,
            write=False,
        )

    async def enqueue(self, items: Sequence[str]) -> Sequence[str]:
        for item in cast("Sequence[object]", items):
            if not isinstance(item, str):
                raise TypeError(f"The queue holds str, not {type(item).__name__}.")
        if items:
            rows = [{"value": item} for item in items]
            await self._run(
                lambda connection: connection.execute(insert(rollout_queue), rows), write=True
            )
        return items

    def _take(self, connection: Connection, limit: int) -> list[str]:
        front = connection.execute(self._front, {"count": limit}).all()
        if front:
            # The queue is read and cut under the write lock, so the front is all there is before.
            connection.execute(self._remove, {"last": front[-1].ordinal})
        return [row.value for row in front]

    async def dequeue(self, limit: int = 1) -> Sequence[str]:
        if limit <= 0:
            return []
        return await self._run(lambda connection: self._take(connection, limit), write=True)

    async def peek(self, limit: int = 1) -> Sequence[str]:
        count = max(limit, 0)
        return await self._run(
            lambda connection: [
                row.value for row in connection.execute(self._front, {"count": count})
            ],
            write=False,
        )

    async def size(self) -> int:
        statement = select(func.count()).select_from(rollout_queue)
        return await self._run(
            lambda connection: connection.execute(statement).scalar_one(), write=False
        )


class SqlCounters(KeyValue[str, int]):
    """The sequence ids of the rollouts' spans."""

    _c = span_sequence_ids.c
    _get = select(_c.value).where(_c.key == bindparam("name"))
    _set = (
        update(span_sequence_ids).where(_c.key == bindparam("name")).values(value=bindparam("new"))
    )
    _delete = delete(span_sequence_ids).where(_c.key == bindparam("name"))

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def has(self, key: str) -> bool:
        return await self.get(key) is not None

    async def get(self, key: str, default: int | None = None) -> int | None:
        found = await self._run(lambda connection: self._read(connection, key), write=False)
        return default if found is None else found

    def _read(self, connection: Connection, key: str) -> int | None:
        return connection.execute(self._get, {"name": key}).scalar()

    def _write(self, connection: Connection, key: str, value: int) -> int:
        if not connection.execute(self._set, {"name": key, "new": value}).rowcount:
            connection.execute(insert(span_sequence_ids), {"key": key, "value": value})
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
            connection.execute(self._delete, {"name": key})
            return default if found is None else found

        return await self._run(work, write=True)

    async def size(self) -> int:
        statement = select(func.count()).select_from(span_sequence_ids)
        return await self._run(
            lambda connection: connection.execute(statement).scalar_one(), write=False
        )


class SqlJournal(EventJournal):
    """Events in a table; the last 200,000 at least are kept."""

    _c = events.c
    _last = select(func.max(_c.seq))
    _oldest = select(func.min(_c.seq))
    _after = (
        select(_c.payload)
        .where(_c.seq > bindparam("after"))
        .order_by(_c.seq)
        .limit(bindparam("count"))
    )
    _prune = delete(events).where(_c.seq <= bindparam("upto"))

    def __init__(self, run: Runner) -> None:
        self._run = run

    def _append(self, connection: Connection, new: Sequence[StoreEvent]) -> None:
        last = before = connection.execute(self._last).scalar() or 0
        for event in new:
            last += 1
            event.seq = last
        rows = [{"seq": event.seq, "payload": encode(event)} for event in new]
        connection.execute(insert(events), rows)
        if last // _PRUNE_EVERY != before // _PRUNE_EVERY:
            connection.execute(self._prune, {"upto": last - KEPT_EVENTS})

    async def append(self, events: Sequence[StoreEvent]) -> None:
        if events:
            await self._run(lambda connection: self._append(connection, events), write=True)

    def _read(self, connection: Connection, after: int, limit: int) -> list[StoreEvent]:
        oldest = connection.execute(self._oldest).scalar() or 1
        if after + 1 < oldest:
            raise ConflictError(
                f"Events {after + 1} to {oldest - 1} are no longer kept; "
                "read the records anew and subscribe from now on."
            )
        found = connection.scalars(self._after, {"after": after, "count": limit})
        return [decode(StoreEvent, text) for text in found]

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        return await self._run(lambda connection: self._read(connection, after, limit), write=False)

    async def last_seq(self) -> int:
        return await self._run(
            lambda connection: connection.execute(self._last).scalar() or 0, write=False
        )
