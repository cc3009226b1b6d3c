"""Writing steps: those that wait at the same time go together, each as a whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final, TypeVar

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import BulkWriteError, ConnectionFailure, PyMongoError

from agentlightning.errors import StoreError
from agentlightning.store.collections.mongo.block import Block, RecordKey, StaleReadError
from agentlightning.store.collections.mongo.connection import Opened
from agentlightning.store.collections.mongo.document import id_of
from agentlightning.store.collections.mongo.layout import (
    PARTITION,
    PARTITIONS,
    QUEUE,
    REPLIES,
    RESOURCES,
    ROLLOUTS,
    WORKERS,
    Document,
)
from agentlightning.store.collections.mongo.lock import Hold
from agentlightning.store.collections.mongo.plan import Plan, Write, by_collection
from agentlightning.store.collections.mongo.sequence import prune
from agentlightning.store.collections.mongo.transaction import in_transaction

logger = logging.getLogger(__name__)

R = TypeVar("R")

_DUPLICATE: Final = 11000
_MOST_STEPS: Final = 64
_MOST_SPANS: Final = 5000
_GUARDED: Final = (ROLLOUTS.name, WORKERS.name, RESOURCES.name)


async def write_all(opened: Opened, writes: Sequence[Write], session: AsyncClientSession) -> None:
    """Do writes within a transaction.

    Raises:
        StaleReadError: A record has another version than was read, or is there already.
    """
    for name, chosen in by_collection(writes):
        kinds = Counter(write.kind for write in chosen)
        try:
            result = await opened.database[name].bulk_write(
                [write.model() for write in chosen], session=session
            )
        except BulkWriteError as error:
            if all(each["code"] == _DUPLICATE for each in error.details["writeErrors"]):
                raise StaleReadError(duplicate=True) from error
            raise
        changed = result.matched_count + result.upserted_count
        if changed < kinds["update"] + kinds["upsert"] or result.deleted_count < kinds["remove"]:
            raise StaleReadError


class _Waiting:
    """A plan on its way into the database."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Committer:
    """Writes plans in transactions, on the loop of its connection."""

    def __init__(self) -> None:
        self._line: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def commit(self, opened: Opened, plan: Plan) -> None:
        """Write a plan as a whole, together with others that wait.

        A caller that is cancelled in time has written nothing; later, the cancellation is lost.

        Raises:
            StaleReadError: Something that the step read was changed meanwhile.
        """
        waiting = _Waiting(plan)
        self._line.append(waiting)
        if self._task is None:
            self._task = asyncio.create_task(self._work(opened))
        while True:
            try:
                return await asyncio.shield(waiting.done)
            except asyncio.CancelledError:
                if waiting in self._line:
                    self._line.remove(waiting)
                    raise
                if waiting.done.cancelled():
                    raise

    async def _work(self, opened: Opened) -> None:
        group: list[_Waiting] = []
        try:
            while self._line:
                group = self._next_group()
                await self._write(opened, group)
        except BaseException:
            for waiting in (*group, *self._line):
                waiting.fail(StoreError("The store was closed before this was written."))
            self._line.clear()
            raise
        finally:
            self._task = None

    def _next_group(self) -> list[_Waiting]:
        """Take plans from the line that touch different records."""
        group: list[_Waiting] = []
        touched: set[RecordKey] = set()
        spans = 0
        while self._line and len(group) < _MOST_STEPS:
            plan = self._line[0].plan
            keys = set(plan.expected())
            spans += len(plan.changes.new_spans)
            if group and (keys & touched or spans > _MOST_SPANS):
                break
            touched |= keys
            group.append(self._line.popleft())
        return group

    async def _write(self, opened: Opened, group: list[_Waiting]) -> None:
        plans = [waiting.plan for waiting in group]
        try:
            last = await _write_in_transaction(opened, plans)
        except Exception as error:  # noqa: BLE001 - each caller gets its own.
            if len(group) == 1 or isinstance(error, ConnectionFailure):
                for waiting in group:
                    waiting.fail(error)
                return
            # One of them spoils it for all, so each goes alone.
            for waiting in group:
                await self._write(opened, [waiting])
            return
        for waiting in group:
            waiting.succeed()
        await _prune(opened, last, sum(len(plan.changes.events) for plan in plans))


async def _prune(opened: Opened, last: int, count: int) -> None:
    try:
        await prune(Block(opened), last, count)
    except PyMongoError:
        logger.warning("old events not dropped", exc_info=True)


def _numbered(plans: Sequence[Plan], seq: int, order: int) -> list[Write]:
    """Return the writes of several plans, after the last numbers given."""
    writes: list[Write] = []
    for plan in plans:
        writes.extend(plan.writes(seq + 1, order + 1))
        seq += len(plan.changes.events)
        order += plan.ordered
    return writes


async def _write_in_transaction(opened: Opened, plans: Sequence[Plan]) -> int:
    events = sum(len(plan.changes.events) for plan in plans)
    ordered = sum(plan.ordered for plan in plans)

    async def work(session: AsyncClientSession) -> int:
        seq = order = 0
        if events or ordered:
            # Taken first: whoever is too late learns it before it has done anything. Until the
            # commit nobody else gets a number, so that the journal grows in order of commits.
            after = await opened.database[PARTITIONS].find_one_and_update(
                {"_id": opened.partition},
                {"$inc": {"seq": events, "o": ordered}},
                return_document=ReturnDocument.AFTER,
                session=session,
            )
            if after is None:
                raise StoreError(f"Partition {opened.partition} was removed; open it anew.")
            seq, order = after["seq"] - events, after["o"] - ordered
        await write_all(opened, _numbered(plans, seq, order), session)
        return seq + events

    return await in_transaction(opened, work)


async def write_under_lock(opened: Opened, plan: Plan, hold: Hold) -> None:
    """Write a plan where there are no transactions.

    Raises:
        StaleReadError: The lock was lost, or a record is there already.
    """
    await check_versions(opened, plan.expected())
    await _check_reply(opened, plan)
    queued = await _queue_documents(opened, plan.changes.unqueued)
    seq, order = hold.counters
    events = len(plan.changes.events)
    writes = plan.writes(seq + 1, order + 1, queued)
    await hold.write(writes, seq + events, order + plan.ordered)
    await _prune(opened, seq + events, events)


async def check_versions(opened: Opened, expected: dict[RecordKey, int | None]) -> None:
    """Raise if a record has another version than was read.

    Raises:
        StaleReadError: It has, or is there where none was.
    """
    for name in _GUARDED:
        wanted = {
            id_of(opened.partition, key): version
            for (each, key), version in expected.items()
            if each == name
        }
        if not wanted:
            continue
        cursor = opened.database[name].find({"_id": {"$in": list(wanted)}}, {"v": 1})
        found = {document["_id"]: document["v"] async for document in cursor}
        for key, version in wanted.items():
            if found.get(key) != version:
                raise StaleReadError(duplicate=version is None)


async def _check_reply(opened: Opened, plan: Plan) -> None:
    reply = plan.changes.reply
    if reply is None:
        return
    where: Document = {PARTITION: opened.partition, "key": reply.key}
    if await opened.database[REPLIES].find_one(where) is not None:
        raise StaleReadError(duplicate=True)


async def _queue_documents(opened: Opened, values: Sequence[str]) -> list[ObjectId]:
    """Return the ids of the documents that hold these values in the queue."""
    if not values:
        return []
    where: Document = {PARTITION: opened.partition, "value": {"$in": list(values)}}
    cursor = opened.database[QUEUE].find(where, {"_id": 1})
    return [document["_id"] async for document in cursor]
