"""The collections as one atomic block sees them, and what the store's steps ask of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

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
from agentlightning.store.collections.redis import claims, pages, scripts
from agentlightning.store.collections.redis.layout import (
    ATTEMPTS,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    VERSIONS,
    WORKERS,
    Stored,
    Table,
    text,
)
from agentlightning.store.collections.redis.sequence import (
    RedisCounters,
    RedisJournal,
    RedisQueue,
)
from agentlightning.store.collections.redis.session import Session
from agentlightning.store.collections.redis.table import RedisCollection, Runner
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

R = TypeVar("R")

_NEWEST = "resources:by:update_time"


class RedisTables(LightningCollections):
    """The collections, whose operations happen wherever `run` lets them."""

    loop_agnostic = True
    keeps_replies = True

    def __init__(self, run: Runner) -> None:
        self._rollouts = RedisCollection(ROLLOUTS, run)
        self._attempts = RedisCollection(ATTEMPTS, run)
        self._spans = RedisCollection(SPANS, run)
        self._resources = RedisCollection(RESOURCES, run)
        self._versions = RedisCollection(VERSIONS, run)
        self._workers = RedisCollection(WORKERS, run)
        self._queue = RedisQueue(run)
        self._counters = RedisCounters(run)
        self._journal = RedisJournal(run)

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


def _by_id(rows: Sequence[Stored[Rollout] | None]) -> dict[str, Rollout]:
    return {row.record.rollout_id: row.record for row in rows if row is not None}


class NewestResources:
    """The snapshot that was published last, as it was last seen."""

    entry: str | None = None
    """Its entry in the index; empty where there was none, None to look."""


class RedisBlock(RedisTables):
    """One atomic block; everything is written when it ends.

    `find_*` answer from what is stored; within a block that has written through the collections,
    ask those.

    Args:
        session: The block's state.
        newest: Kept from one block to the next.
    """

    def __init__(self, session: Session, newest: NewestResources) -> None:
        self.session = session
        self._newest = newest

        super().__init__(self._within)

    async def _within(self, work: Callable[[Session], Awaitable[R]], *, write: bool) -> R:
        return await work(self.session)

    def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[LightningCollections]:
        # A block within a block is part of it.
        return nullcontext(self)

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        await self.session.find_rollouts(rollout_ids)
        return _by_id(await self.session.read(ROLLOUTS, rollout_ids))

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        key = ATTEMPTS.join((rollout_id, attempt_id))
        (row,) = await self.session.read(ATTEMPTS, [key])
        return None if row is None else row.record

    async def find_latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        keys = await self.session.find_latest(rollout_ids)
        rows = await self.session.read(ATTEMPTS, keys)
        return {row.record.rollout_id: row.record for row in rows if row is not None}

    async def find_worker(self, worker_id: str) -> Worker | None:
        (row,) = await self.session.read(WORKERS, [worker_id])
        return None if row is None else row.record

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        return await self.session.find_top(RESOURCES, _NEWEST)

    async def find_newest_resources_id(self) -> str | None:
        # Perf: every enqueue asks, and the commit finds out whether what was seen last still holds.
        latest = self._newest.entry if self.session.tracks else None
        if latest is None:
            rows = await pages.entries(self.session.server, _NEWEST, -1, -1)
            latest = self._newest.entry = text(rows[0]) if rows else ""
        self.session.check("T", _NEWEST, is_still=latest)
        return latest[16:] or None

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        if metadata:
            return await claims.find_matching(self.session, limit, offset, metadata)
        return await claims.find_queued(self.session, limit, offset)

    async def find_sequence_ids(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        """Return the highest sequence id of each rollout's spans, 0 where there is none."""
        await self.session.find_counters(rollout_ids)
        counters = self.span_sequence_ids
        return {key: await counters.get(key, 0) or 0 for key in rollout_ids}

    async def find_known_spans(
        self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]
    ) -> set[str]:
        keys = {SPANS.join((rollout_id, attempt_id, span_id)): span_id for span_id in span_ids}
        for key in await self.session.find_missing(SPANS, list(keys)):
            del keys[key]
        return set(keys.values())

    async def find_reply(self, key: str) -> Reply | None:
        raw = await self.session.server.command("GET", f"{self.session.server.base}reply:{key}")
        if raw is None:
            self.session.check("N", key)
            return None
        time, refs = json.loads(raw)
        return Reply(key, time, refs)

    async def apply(self, changes: Changes) -> None:
        session, program = self.session, self.session.program
        self._insert(ROLLOUTS, list(changes.new_rollouts.values()))
        await self._upsert(ROLLOUTS, list(changes.rollouts.values()))
        for attempt in changes.removed_attempts:
            key = ATTEMPTS.key(attempt)
            await session.read(ATTEMPTS, [key])
            session.remove(ATTEMPTS, key)
        self._insert(ATTEMPTS, list(changes.new_attempts.values()))
        await self._upsert(ATTEMPTS, list(changes.attempts.values()))
        self._insert(SPANS, changes.new_spans)
        program.raised.update(changes.sequence_ids)
        await self._upsert(WORKERS, list(changes.workers.values()))
        self._insert(VERSIONS, changes.superseded)
        await self._upsert(RESOURCES, changes.resources)
        for rollout_id in changes.unqueued:
            line = await session.queue_entry(rollout_id)
            if line is not None:
                session.check("Q", line)
                program.taken.append(line)
        program.queued.update(changes.queued)
        program.events += changes.events
        if changes.reply is not None:
            session.keep_reply(changes.reply)

    async def find_span_bytes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        sizes = await self.session.server.script(scripts.SPAN_BYTES, *rollout_ids)
        return dict(zip(rollout_ids, sizes, strict=True))

    async def remove(self, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
        session, removed = self.session, 0
        await self.find_rollouts(rollout_ids)
        for rollout_id in rollout_ids:
            index = session.server.base + SPANS.owner_index(rollout_id)
            removed += await session.server.command("ZCARD", index)
            session.program.emptied.append((SPANS.name, rollout_id))
            if spans_only:
                continue
            session.program.emptied.append((ATTEMPTS.name, rollout_id))
            session.program.counters[rollout_id] = None
            session.remove(ROLLOUTS, rollout_id)
        return removed

    def _insert(self, table: Table[Any], records: Sequence[Any]) -> None:
        keys = [table.key(record) for record in records]
        self.session.assume_free(table, keys)
        for key, record in zip(keys, records, strict=True):
            self.session.put(table, key, record)

    async def _upsert(self, table: Table[Any], records: Sequence[Any]) -> None:
        keys = [table.key(record) for record in records]
        # A step has read what it updates, so this asks the server for nothing.
        await self.session.read(table, keys)
        for key, record in zip(keys, records, strict=True):
            self.session.put(table, key, record)
