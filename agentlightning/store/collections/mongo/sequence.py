"""What is no collection of records: the queue, the counters, and the event journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from agentlightning.errors import ConflictError
from agentlightning.store.collections.base import EventJournal, KeyValue, Queue
from agentlightning.store.collections.codec import decode
from agentlightning.store.collections.kinds import offset_after
from agentlightning.store.collections.mongo.block import Block, Runner
from agentlightning.store.collections.mongo.document import event_document, queue_document
from agentlightning.store.collections.mongo.layout import COUNTERS, EVENTS, PARTITIONS, QUEUE
from agentlightning.types import StoreEvent

KEPT_EVENTS: Final = 200_000
PRUNE_EVERY: Final = 4096


async def prune(block: Block, last: int, count: int) -> None:
    """Drop old events, when the newest `count` of `last` crossed a boundary."""
    if last // PRUNE_EVERY != (last - count) // PRUNE_EVERY:
        await block.collection(EVENTS).delete_many(
            block.mine(seq={"$lte": last - KEPT_EVENTS}), session=block.session
        )


class MongoQueue(Queue[str]):
    """The queue of rollout ids."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def item_type(self) -> type[str]:
        return str

    async def has(self, item: str) -> bool:
        async def work(block: Block) -> bool:
            found = await block.collection(QUEUE).find_one(
                block.mine(value=item), {"_id": 1}, session=block.session
            )
            return found is not None

        return await self._run(work, write=False)

    async def enqueue(self, items: Sequence[str]) -> Sequence[str]:
        for item in cast("Sequence[object]", items):
            if not isinstance(item, str):
                raise TypeError(f"The queue holds str, not {type(item).__name__}.")

        async def work(block: Block) -> None:
            first = await block.advance("o", len(items))
            await block.collection(QUEUE).insert_many(
                [
                    queue_document(block.opened.partition, item, first + place)
                    for place, item in enumerate(items)
                ],
                session=block.session,
            )

        if items:
            await self._run(work, write=True)
        return items

    async def dequeue(self, limit: int = 1) -> Sequence[str]:
        async def work(block: Block) -> list[str]:
            taken: list[str] = []
            while len(taken) < limit:
                found = await block.collection(QUEUE).find_one_and_delete(
                    block.mine(), {"value": 1}, sort=[("o", 1)], session=block.session
                )
                if found is None:
                    break
                taken.append(found["value"])
            return taken

        return await self._run(work, write=True) if limit > 0 else []

    async def peek(self, limit: int = 1) -> Sequence[str]:
        return await self.ids(limit) if limit > 0 else []

    async def ids(self, limit: int, offset: int = 0) -> list[str]:
        """Return ids in line after the first `offset`; a limit of 0 means all."""

        async def work(block: Block) -> list[str]:
            cursor = block.collection(QUEUE).find(
                block.mine(),
                {"_id": 0, "value": 1},
                sort=[("o", 1)],
                skip=offset,
                limit=limit,
                session=block.session,
            )
            return [found["value"] async for found in cursor]

        return await self._run(work, write=False)

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, str]]:
        start = offset_after(after)

        async def work(block: Block) -> list[tuple[str, str]]:
            cursor = block.collection(QUEUE).find(
                block.mine(o={"$gt": start}),
                sort=[("o", 1)],
                limit=limit,
                session=block.session,
            )
            return [(str(found["o"]), found["value"]) async for found in cursor]

        return await self._run(work, write=False)

    async def size(self) -> int:
        async def work(block: Block) -> int:
            return await block.collection(QUEUE).count_documents(
                block.mine(), session=block.session
            )

        return await self._run(work, write=False)


class MongoCounters(KeyValue[str, int]):
    """The sequence ids of the rollouts' spans."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    async def has(self, key: str) -> bool:
        return await self.get(key) is not None

    async def get(self, key: str, default: int | None = None) -> int | None:
        found = await self.many([key])
        return found.get(key, default)

    async def many(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the values of those keys that have one."""

        async def work(block: Block) -> dict[str, int]:
            cursor = block.collection(COUNTERS).find(
                block.mine(key={"$in": list(keys)}), session=block.session
            )
            return {found["key"]: found["value"] async for found in cursor}

        return await self._run(work, write=False)

    def _number(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"Counters hold int, not {type(value).__name__}.")
        return value

    async def set(self, key: str, value: int) -> None:
        await self._change(key, {"$set": {"value": self._number(value)}})

    async def inc(self, key: str, amount: int) -> int:
        return await self._change(key, {"$inc": {"value": self._number(amount)}})

    async def chmax(self, key: str, value: int) -> int:
        return await self._change(key, {"$max": {"value": self._number(value)}})

    async def _change(self, key: str, change: dict[str, Any]) -> int:
        async def work(block: Block) -> int:
            after = await block.collection(COUNTERS).find_one_and_update(
                block.mine(key=key),
                change,
                upsert=True,
                return_document=True,
                session=block.session,
            )
            return cast("dict[str, int]", after)["value"]

        return await self._run(work, write=True)

    async def pop(self, key: str, default: int | None = None) -> int | None:
        async def work(block: Block) -> int | None:
            found = await block.collection(COUNTERS).find_one_and_delete(
                block.mine(key=key), session=block.session
            )
            return default if found is None else found["value"]

        return await self._run(work, write=True)

    async def size(self) -> int:
        async def work(block: Block) -> int:
            return await block.collection(COUNTERS).count_documents(
                block.mine(), session=block.session
            )

        return await self._run(work, write=False)


class MongoJournal(EventJournal):
    """Events with a `seq` without gaps, in the order of commits; the last 200,000 at least are
    kept.

    Args:
        run: Where to run.
        writer: Who we are, so that a watch can tell our events from those of others.
    """

    def __init__(self, run: Runner, writer: str) -> None:
        self._run = run
        self._writer = writer

    async def append(self, events: Sequence[StoreEvent]) -> None:
        async def work(block: Block) -> None:
            # Without a transaction, events must be there before their numbers are given out.
            locked = block.session is None
            first = await _last(block) + 1 if locked else await block.advance("seq", len(events))
            for place, event in enumerate(events):
                event.seq = first + place
            await block.collection(EVENTS).insert_many(
                [event_document(block.opened.partition, self._writer, event) for event in events],
                session=block.session,
            )
            if locked:
                await block.advance("seq", len(events))
            await prune(block, events[-1].seq, len(events))

        if events:
            await self._run(work, write=True)

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        async def work(block: Block) -> list[StoreEvent]:
            wanted = {"$gt": after}
            if not block.opened.has_transactions:
                # What is being written at this moment is not there as a whole yet.
                wanted["$lte"] = await _last(block)
            cursor = block.collection(EVENTS).find(
                block.mine(seq=wanted),
                {"_id": 0, "payload": 1},
                sort=[("seq", 1)],
                limit=limit,
                session=block.session,
            )
            found = [decode(StoreEvent, document["payload"]) async for document in cursor]
            # Numbers have no gaps, so what is missing in front was dropped.
            if found and found[0].seq > after + 1:
                raise ConflictError(
                    f"Events {after + 1} to {found[0].seq - 1} are no longer kept; "
                    "read the records anew and subscribe from now on."
                )
            return found

        return await self._run(work, write=False)

    async def last_seq(self) -> int:
        return await self._run(_last, write=False)


async def _last(block: Block) -> int:
    kept = await block.collection(PARTITIONS).find_one(
        {"_id": block.opened.partition}, {"seq": 1}, session=block.session
    )
    return 0 if kept is None else kept["seq"]
