"""What is no collection of records: the queue, the counters and the event journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from agentlightning.errors import ConflictError
from agentlightning.store.collections.codec import decode
from agentlightning.store.collections.kinds import EventJournal, KeyValue, Queue, offset_after
from agentlightning.store.collections.redis import pages
from agentlightning.store.collections.redis.layout import split_entry, text
from agentlightning.store.collections.redis.session import Session
from agentlightning.store.collections.redis.table import Runner
from agentlightning.types import StoreEvent

_QUEUE = "queue"


async def _front(session: Session, limit: int) -> list[str]:
    """Return entries from the front that this block has not taken."""
    taken = set(session.program.taken)
    await session.revision(_QUEUE)
    stop = limit + len(taken) - 1
    raws: list[bytes] = await session.server.command(
        "ZRANGE", session.server.base + _QUEUE, 0, stop
    )
    return [line for raw in raws if (line := text(raw)) not in taken][:limit]


class RedisQueue(Queue[str]):
    """The queue of rollout ids."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def item_type(self) -> type[str]:
        return str

    async def has(self, item: str) -> bool:
        async def work(session: Session) -> bool:
            raw = await session.server.command("HGET", session.server.base + "queued", item)
            places = text(raw or b"")
            session.check("Z", item, is_still=places)
            if item in session.program.appended:
                return True
            ordinals = places.split()
            return any(f"{ordinal}{item}" not in session.program.taken for ordinal in ordinals)

        return await self._run(work, write=False)

    async def enqueue(self, items: Sequence[str]) -> Sequence[str]:
        for item in cast("Sequence[object]", items):
            if not isinstance(item, str):
                raise TypeError(f"The queue holds str, not {type(item).__name__}.")

        async def work(session: Session) -> None:
            session.program.appended += items

        if items:
            await self._run(work, write=True)
        return items

    async def dequeue(self, limit: int = 1) -> Sequence[str]:
        async def work(session: Session) -> list[str]:
            entries = await _front(session, limit)
            for line in entries:
                session.check("Q", line)
            session.program.taken += entries
            rest = limit - len(entries)
            own, session.program.appended = (
                session.program.appended[:rest],
                session.program.appended[rest:],
            )
            return [line[16:] for line in entries] + own

        return await self._run(work, write=True) if limit > 0 else []

    async def peek(self, limit: int = 1) -> Sequence[str]:
        async def work(session: Session) -> list[str]:
            entries = await _front(session, limit)
            return [line[16:] for line in entries] + session.program.appended[
                : limit - len(entries)
            ]

        return await self._run(work, write=False) if limit > 0 else []

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, str]]:
        async def work(session: Session) -> list[tuple[str, str]]:
            await session.revision(_QUEUE)
            entries = await pages.beyond(session.server, _QUEUE, offset_after(after), limit)
            return [(str(ordinal), key) for ordinal, key in map(split_entry, entries)]

        return await self._run(work, write=False)

    async def size(self) -> int:
        async def work(session: Session) -> int:
            await session.revision(_QUEUE)
            count = await session.server.command("ZCARD", session.server.base + _QUEUE)
            return count - len(session.program.taken) + len(session.program.appended)

        return await self._run(work, write=False)


class RedisCounters(KeyValue[str, int]):
    """The sequence ids of the rollouts' spans."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def _read(self, session: Session, key: str) -> int | None:
        if key in session.program.counters:
            return session.program.counters[key]
        if key not in session.counters:
            raw = await session.server.command("HGET", session.server.base + "counters", key)
            session.counters[key] = None if raw is None else int(raw)
        value = session.counters[key]
        session.check("K", key, is_still="" if value is None else str(value))
        return value

    async def has(self, key: str) -> bool:
        return await self.get(key) is not None

    async def get(self, key: str, default: int | None = None) -> int | None:
        found = await self._run(lambda session: self._read(session, key), write=False)
        return default if found is None else found

    def _number(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Counters hold int, not {type(value).__name__}.")
        return value

    async def _change(self, key: str, change: Callable[[int | None], int]) -> int:
        async def work(session: Session) -> int:
            present = await self._read(session, key)
            value = change(present)
            if value != present:
                session.program.counters[key] = value
            return value

        return await self._run(work, write=True)

    async def set(self, key: str, value: int) -> None:
        await self._change(key, lambda _: self._number(value))

    async def inc(self, key: str, amount: int) -> int:
        step = self._number(amount)
        return await self._change(key, lambda present: (present or 0) + step)

    async def chmax(self, key: str, value: int) -> int:
        number = self._number(value)
        return await self._change(
            key, lambda present: number if present is None else max(present, number)
        )

    async def pop(self, key: str, default: int | None = None) -> int | None:
        async def work(session: Session) -> int | None:
            found = await self._read(session, key)
            if found is not None:
                session.program.counters[key] = None
            return default if found is None else found

        return await self._run(work, write=True)

    async def size(self) -> int:
        async def work(session: Session) -> int:
            count = await session.server.command("HLEN", session.server.base + "counters")
            for key, value in session.program.counters.items():
                count += (value is not None) - (session.counters.get(key) is not None)
            return count

        return await self._run(work, write=False)


class RedisJournal(EventJournal):
    """Events in a stream; the last 200,000 at least are kept."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def append(self, events: Sequence[StoreEvent]) -> None:
        async def work(session: Session) -> None:
            session.program.events += events

        if events:
            await self._run(work, write=True)

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        async def work(session: Session) -> list[StoreEvent]:
            rows: Any = await session.server.command(
                "XRANGE", session.server.base + "events", f"({after}-0", "+", "COUNT", limit
            )
            return [_event(*row) for row in rows]

        found = await self._run(work, write=False)
        if found and found[0].seq > after + 1:
            raise ConflictError(
                f"Events {after + 1} to {found[0].seq - 1} are no longer kept; "
                "read the records anew and subscribe from now on."
            )
        return found

    async def last_seq(self) -> int:
        async def work(session: Session) -> int:
            raw = await session.server.command("HGET", session.server.base + "meta", "seq")
            return int(raw or 0)

        return await self._run(work, write=False)


def _event(identifier: bytes, fields: Any) -> StoreEvent:
    """Return an entry of the stream, whose fields come as a list, or as a dict from redis-py."""
    payload = fields[b"e"] if isinstance(fields, dict) else fields[1]
    event = decode(StoreEvent, payload.decode())
    event.seq = int(identifier.partition(b"-")[0])
    return event
