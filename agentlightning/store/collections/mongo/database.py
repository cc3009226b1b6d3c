"""All collections of one partition of a MongoDB database."""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

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
from agentlightning.store.collections.mongo.block import Block
from agentlightning.store.collections.mongo.connection import Connection, Opened
from agentlightning.store.collections.mongo.document import id_of, reply_document, reply_of
from agentlightning.store.collections.mongo.layout import (
    ATTEMPTS,
    REPLIES,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    VERSIONS,
    WORKERS,
)
from agentlightning.store.collections.mongo.plan import Plan
from agentlightning.store.collections.mongo.sequence import (
    MongoCounters,
    MongoJournal,
    MongoQueue,
)
from agentlightning.store.collections.mongo.steps import Steps
from agentlightning.store.collections.mongo.table import MongoCollection
from agentlightning.store.collections.mongo.watch import follow
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

R = TypeVar("R")

_BATCH: Final = 500
_SPARE: Final = 4


class MongoLightningCollections(LightningCollections):
    """Everything a store keeps, in the documents of one partition.

    Args:
        connection: The partition; closed by `close`.
        steps: What runs the steps; None makes it.
        block: The step that these collections belong to, if they do.
    """

    loop_agnostic = True
    keeps_replies = True

    def __init__(
        self, connection: Connection, steps: Steps | None = None, block: Block | None = None
    ) -> None:
        self._connection = connection
        self._steps = steps or Steps(connection)
        self._block = block
        self._rollouts = MongoCollection(ROLLOUTS, self._run)
        self._attempts = MongoCollection(ATTEMPTS, self._run)
        self._spans = MongoCollection(SPANS, self._run)
        self._resources = MongoCollection(RESOURCES, self._run)
        self._versions = MongoCollection(VERSIONS, self._run)
        self._workers = MongoCollection(WORKERS, self._run)
        self._queue = MongoQueue(self._run)
        self._counters = MongoCounters(self._run)
        self._journal = MongoJournal(self._run, self._steps.writer)

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
    def resources(self) -> Collection[ResourcesUpdate]:
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
        return self._counters

    @property
    def events(self) -> EventJournal:
        return self._journal

    async def _run(self, work: Callable[[Block], Awaitable[R]], *, write: bool) -> R:
        return await self._steps.operate(self._block, work, write=write)

    def _within(self, block: Block) -> MongoLightningCollections:
        return MongoLightningCollections(self._connection, self._steps, block)

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
        async def read(_: Opened) -> R:
            return await callback(self)

        if self._block is not None:
            return await callback(self)
        if mode != "r":
            return await self._steps.execute(lambda block: callback(self._within(block)))
        if snapshot:
            async with self.atomic("r", snapshot=True) as rows:
                return await callback(rows)
        return await self._connection.run(read)

    @asynccontextmanager
    async def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[LightningCollections]:
        if self._block is not None or (mode == "r" and not snapshot):
            yield self
            return
        async with self._steps.open_block() as block:
            yield self._within(block)

    # What the store asks for.

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        found = await self._rollouts.by_keys([(rollout_id,) for rollout_id in rollout_ids])
        if self._block is not None:
            for key in found:
                self._block.hold(ROLLOUTS.name, key)
        return {rollout.rollout_id: rollout for rollout in found.values()}

    async def find_latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        latest: dict[str, Attempt] = {}
        for attempt in await self._attempts.among("rollout_id", rollout_ids):
            known = latest.get(attempt.rollout_id)
            if known is None or known.sequence_id < attempt.sequence_id:
                latest[attempt.rollout_id] = attempt
        return latest

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        newest = await super().find_newest_resources()
        if newest is not None and self._block is not None:
            self._block.hold(RESOURCES.name, (newest.resources_id,))
        return newest

    async def find_newest_resources_id(self) -> str | None:
        async def work(block: Block) -> str | None:
            found = await block.collection(RESOURCES.name).find_one(
                block.mine(),
                {"_id": 0, "resources_id": 1},
                sort=[("update_time", -1)],
                session=block.session,
            )
            return None if found is None else found["resources_id"]

        return await self._run(work, write=False)

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        block = self._block
        if block is None or block.direct:
            return (await self._line(offset + limit, metadata))[offset:]
        await self._steps.claim(block)
        # Whoever was overtaken at the front of the line looks a bit behind it, too.
        spare = min(_SPARE * block.overtaken, _BATCH)
        line = await self._line(len(block.given) + limit + spare, metadata)
        free = [rollout_id for rollout_id in line if rollout_id not in block.given]
        start = random.randint(0, max(0, min(spare, len(free) - limit)))
        chosen = free[start : start + limit]
        block.given.update(chosen)
        return chosen

    async def _line(self, limit: int, metadata: Mapping[str, Any] | None) -> list[str]:
        """Return the first ids in line, of rollouts with these pairs."""
        if metadata is None:
            return await self._queue.ids(limit)
        matching: list[str] = []
        seen = 0
        while len(matching) < limit:
            ids = await self._queue.ids(_BATCH, seen)
            if not ids:
                break
            seen += len(ids)
            found = await self._rollouts.by_keys([(rollout_id,) for rollout_id in ids])
            fitting = {key for (key,), row in found.items() if has_pairs(row.metadata, metadata)}
            matching.extend(rollout_id for rollout_id in ids if rollout_id in fitting)
        return matching[:limit]

    async def find_sequence_ids(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        found = await self._counters.many(rollout_ids)
        return {key: found.get(key, 0) for key in rollout_ids}

    async def find_known_spans(
        self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]
    ) -> set[str]:
        async def work(block: Block) -> set[str]:
            known: set[str] = set()
            for start in range(0, len(span_ids), _BATCH):
                ids = {
                    id_of(block.opened.partition, (rollout_id, attempt_id, span_id)): span_id
                    for span_id in span_ids[start : start + _BATCH]
                }
                cursor = block.collection(SPANS.name).find(
                    {"_id": {"$in": list(ids)}}, {"_id": 1}, session=block.session
                )
                known.update([ids[found["_id"]] async for found in cursor])
            return known

        return await self._run(work, write=False)

    async def find_reply(self, key: str) -> Reply | None:
        async def work(block: Block) -> Reply | None:
            found = await block.collection(REPLIES).find_one(
                block.mine(key=key), session=block.session
            )
            return None if found is None else reply_of(found)

        return await self._run(work, write=False)

    async def count_by_status(self) -> dict[str, int]:
        async def work(block: Block) -> dict[str, int]:
            found = await block.collection(ROLLOUTS.name).aggregate(
                [{"$match": block.mine()}, {"$group": {"_id": "$status", "count": {"$sum": 1}}}],
                session=block.session,
            )
            return {group["_id"]: group["count"] async for group in found}

        return await self._run(work, write=False)

    async def find_span_bytes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        async def work(block: Block) -> dict[str, int]:
            found = await block.collection(SPANS.name).aggregate(
                [
                    {"$match": block.mine(rollout_id={"$in": list(rollout_ids)})},
                    {
                        "$group": {
                            "_id": "$rollout_id",
                            "bytes": {"$sum": {"$strLenBytes": "$payload"}},
                        }
                    },
                ],
                session=block.session,
            )
            sizes = {group["_id"]: group["bytes"] async for group in found}
            return {rollout_id: sizes.get(rollout_id, 0) for rollout_id in rollout_ids}

        return await self._run(work, write=False)

    async def remove(self, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
        async def count(block: Block) -> int:
            return await block.collection(SPANS.name).count_documents(
                block.mine(rollout_id={"$in": list(rollout_ids)})
            )

        block = self._block
        if block is None or block.direct:
            return await super().remove(rollout_ids, spans_only=spans_only)
        block.removed.update(dict.fromkeys(rollout_ids, spans_only))
        return await self._run(count, write=False)

    async def apply(self, changes: Changes) -> None:
        block = self._block
        if block is None:
            await self.execute(lambda rows: rows.apply(changes))
        elif block.direct:
            await self._apply_directly(changes, block)
        elif changes != Changes() or block.removed:
            await self._steps.commit(block, Plan(changes, block, self._steps.writer))

    async def _apply_directly(self, changes: Changes, block: Block) -> None:
        await super().apply(changes)
        if changes.reply is not None:
            await block.collection(REPLIES).insert_one(
                reply_document(block.opened.partition, changes.reply), session=block.session
            )

    def watch(self, notify: Callable[[], None]) -> Callable[[], None]:
        work = functools.partial(follow, self._connection, self._steps.writer, notify)
        return self._connection.io.spawn(work)

    async def close(self) -> None:
        await self._connection.close()
