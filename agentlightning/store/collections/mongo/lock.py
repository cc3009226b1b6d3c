"""Writing without transactions: one writer at a time, and a note of what it is about to write.

The partition's document holds the lock, and in it the note: all writes of a step, put there in
one atomic update before the first of them happens. Whoever takes the lock next finds the note of
a writer that died, and finishes its work. A writer that only slept finds the lock taken and stops.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import bson
from pymongo import ReturnDocument
from pymongo.errors import BulkWriteError, PyMongoError

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreError, StoreUnavailableError
from agentlightning.store.collections.mongo.block import StaleReadError
from agentlightning.store.collections.mongo.connection import Opened
from agentlightning.store.collections.mongo.layout import PARTITIONS, SPANS, Document
from agentlightning.store.collections.mongo.plan import Write, by_collection

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 10.0
"""A lock whose holder gave no sign for so long is taken from it."""
_WAIT_SECONDS: Final = 60.0
_LONGEST_PAUSE: Final = 0.01
_NOTE_BYTES: Final = 12 * 2**20
"""A document may have 16 MB."""
_DUPLICATE: Final = 11000


async def write_again(opened: Opened, writes: Sequence[Write], end: float) -> None:
    """Do writes of which some may have been done already.

    Args:
        opened: The connection.
        writes: What to write.
        end: When to stop, on the monotonic clock, since the lock may be somebody else's then.

    Raises:
        StoreUnavailableError: It took too long; whoever writes next finishes it.
    """
    for name, chosen in by_collection(writes):
        if monotonic() > end:
            raise StoreUnavailableError("MongoDB was too slow; what was begun is finished later.")
        try:
            await opened.database[name].bulk_write(
                [write.model() for write in chosen], ordered=False
            )
        except BulkWriteError as error:
            if any(each["code"] != _DUPLICATE for each in error.details["writeErrors"]):
                raise


class PartitionLock:
    """The right to write to a partition.

    Args:
        holder: Who we are; no two stores are the same.
    """

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def held(self, opened: Opened) -> AsyncGenerator[Hold]:
        """Hold the lock, among the tasks of this process and among processes.

        It is taken from a holder that seems dead, and what that had begun is finished first.

        Raises:
            StoreUnavailableError: Others kept it all the time.
        """
        async with self._turn:
            hold = await self._acquire(opened)
            try:
                yield hold
            finally:
                await hold.release()

    async def _acquire(self, opened: Opened) -> Hold:
        end = monotonic() + _WAIT_SECONDS
        watched: tuple[Any, Any] | None = None
        since = monotonic()
        while monotonic() < end:
            state = await self._take(opened, {"holder": {"$in": [None, self._holder]}})
            if state is None:
                now = await opened.database[PARTITIONS].find_one({"_id": opened.partition})
                if now is None:
                    raise StoreError(f"Partition {opened.partition} was removed; open it anew.")
                found = (now["holder"], now["beat"])
                if found != watched:
                    watched, since = found, monotonic()
                elif monotonic() - since > LEASE_SECONDS:
                    state = await self._take(opened, {"holder": found[0], "beat": found[1]})
            if state is not None:
                hold = Hold(opened, state)
                await hold.finish_others()
                return hold
            await asyncio.sleep(random.uniform(0.0, _LONGEST_PAUSE))
        raise StoreUnavailableError(
            "Others kept this MongoDB partition's lock for a minute; try again, or use a replica "
            "set, where writers do not wait for one another."
        )

    async def _take(self, opened: Opened, where: Document) -> Document | None:
        return await opened.database[PARTITIONS].find_one_and_update(
            {"_id": opened.partition, **where},
            {"$set": {"holder": self._holder}, "$inc": {"beat": 1}},
            return_document=ReturnDocument.AFTER,
        )


class Hold:
    """The lock, while it is held.

    Args:
        opened: The connection.
        state: The partition's document.
    """

    def __init__(self, opened: Opened, state: Document) -> None:
        self._opened = opened
        self._state = state
        self._end = monotonic() + LEASE_SECONDS / 2
        self._note: Document = {}
        self._owned: Document = {
            "_id": opened.partition,
            "holder": state["holder"],
            "beat": state["beat"],
        }

    @property
    def counters(self) -> tuple[int, int]:
        """Return the last `seq` and the last order given."""
        return self._state["seq"], self._state["o"]

    async def finish_others(self) -> None:
        """Do what a writer that died had begun."""
        note = self._state.pop("note", None)
        if note is not None:
            self._note = bson.decode(note)
            await self._do_noted([Write(**each) for each in self._note["writes"]])

    async def write(self, writes: Sequence[Write], seq: int, order: int) -> None:
        """Do all of the writes, or leave a note by which somebody will.

        Raises:
            StaleReadError: The lock was lost, or was held too long; nothing was written.
        """
        if monotonic() > self._end:
            raise StaleReadError
        note = _note(writes, seq, order)
        if len(note) > _NOTE_BYTES:
            # Spans do no harm by being there before their rollout's counters know of them.
            spans = [write for write in writes if write.collection == SPANS.name]
            await write_again(self._opened, spans, self._end)
            writes = [write for write in writes if write.collection != SPANS.name]
            note = _note(writes, seq, order)
        result = await self._opened.database[PARTITIONS].update_one(
            self._owned, {"$set": {"note": note}}
        )
        if not result.matched_count:
            raise StaleReadError
        self._note = {"seq": seq, "o": order}
        await self._do_noted(writes)

    async def _do_noted(self, writes: Sequence[Write]) -> None:
        await write_again(self._opened, writes, self._end)
        # Nobody is told of events before all of them are there.
        done = {name: self._note[name] for name in ("seq", "o")}
        await self._opened.database[PARTITIONS].update_one(
            self._owned, {"$max": done, "$unset": {"note": ""}}
        )
        self._state.update(done)
        self._note = {}

    async def release(self) -> None:
        """Give the lock back; a note stays for the next writer if its work was not finished."""
        try:
            await self._opened.database[PARTITIONS].update_one(
                self._owned, {"$set": {"holder": None}}
            )
        except PyMongoError:
            # The lock stays ours, and is taken from us if we do not come back.
            logger.warning("partition lock not released", exc_info=True)


def _note(writes: Sequence[Write], seq: int, order: int) -> bytes:
    listed = [
        {"collection": w.collection, "kind": w.kind, "where": w.where, "body": w.body}
        for w in writes
    ]
    return bson.encode({"writes": listed, "seq": seq, "o": order})
