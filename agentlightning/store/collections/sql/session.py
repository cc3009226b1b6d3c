"""One connection's view of the database: the store's questions, and the writes of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ClauseElement,
    Dialect,
    Integer,
    Select,
    bindparam,
    select,
    text,
)

from agentlightning.store.collections.changes import Changes, Reply
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.cache import UNKNOWN, RecordCache
from agentlightning.store.collections.sql.condition import Filter
from agentlightning.store.collections.sql.contents import ContentSink
from agentlightning.store.collections.sql.records import (
    ATTEMPTS,
    RESOURCES,
    ROLLOUTS,
    WORKERS,
)
from agentlightning.store.collections.sql.rows import SqlRows
from agentlightning.store.collections.sql.statement import (
    Executor,
    Statement,
    first,
    in_list,
)
from agentlightning.store.collections.sql.step_writer import StepWriter
from agentlightning.store.collections.sql.text import from_text
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Worker

R = TypeVar("R")

_BATCH: Final = 5000
_PUBLISHERS: Final = "resources"
_r, _a, _s = schema.rollouts.c, schema.attempts.c, schema.spans.c
_q, _n = schema.rollout_queue.c, schema.span_sequence_ids.c
_replies = schema.replies.c

_ROLLOUT: Final = ROLLOUTS.select_all().where(_r.rollout_id == bindparam("key"))
_ROLLOUTS: Final = (
    ROLLOUTS.select_all().where(in_list(_r.rollout_id, "keys")).order_by(_r.rollout_id)
)
_READ_ONE: Final = Statement(_ROLLOUT, "key")
_READ_MANY: Final = Statement(_ROLLOUTS, "keys")
_LOCK_ONE: Final = Statement(_ROLLOUT.with_for_update(), "key")
_LOCK_MANY: Final = Statement(_ROLLOUTS.with_for_update(), "keys")
_LATEST: Final = Statement(
    ATTEMPTS.select_all()
    .where(_a.rollout_id == bindparam("key"))
    .order_by(_a.sequence_id.desc())
    .limit(1),
    "key",
)
_ACTIVE: Final = Statement(
    ROLLOUTS.select_all().where(_r.status.in_(["preparing", "running"])).order_by(_r.ordinal)
)
_NEWEST: Final = Statement(
    RESOURCES.select_all().order_by(schema.resources.c.update_time.desc()).limit(1)
)


def _front(*, lock: bool) -> Select[Any, Any]:
    query = (
        select(_q.ordinal, _q.value)
        .order_by(_q.ordinal)
        .limit(bindparam("most", type_=Integer))
        .offset(bindparam("skip", type_=Integer))
    )
    return query.with_for_update(skip_locked=True) if lock else query


_FRONT: Final = Statement(_front(lock=False), "most", "skip")
_LOCK_FRONT: Final = Statement(_front(lock=True), "most", "skip")
_NUMBER: Final = Statement(select(_n.value).where(_n.key == bindparam("key")), "key")


def _known_spans(dialect: Dialect) -> ClauseElement:
    if dialect.name == "sqlite":
        # Its planner would go through all spans of the attempt, rather than look each id up.
        return text(
            "SELECT s.span_id FROM json_each(:keys) AS k CROSS JOIN spans AS s "
            "WHERE s.rollout_id = :rollout AND s.attempt_id = :attempt AND s.span_id = k.value"
        )
    return select(_s.span_id).where(
        _s.rollout_id == bindparam("rollout"),
        _s.attempt_id == bindparam("attempt"),
        in_list(_s.span_id, "keys"),
    )


_KNOWN_SPANS: Final = Statement(
    _known_spans,
    "rollout",
    "attempt",
    "keys",
)
_REPLY: Final = Statement(
    select(_replies.time, _replies.refs).where(_replies.key == bindparam("reply")), "reply"
)


class SqlSession(SqlRows):
    """The database within one transaction after the other of one connection.

    Every coroutine runs to its end without suspending.

    Args:
        executor: The connection.
        writes: Records that are read are locked, where the database knows such locks.
        cache: What is known of the database; shared by sessions of one connection.
        sink: Likewise for contents.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        writes: bool = True,
        cache: RecordCache | None = None,
        sink: ContentSink | None = None,
    ) -> None:
        super().__init__(self.do)
        self.executor = executor
        self.cache = cache or RecordCache()
        self.wrote = False
        """Something was written since this was set to False."""
        self.announced = False
        """Events were written since this was set to False."""
        self.sink = sink or ContentSink()
        self._writer = StepWriter(executor, self.cache, self.sink)
        self._read_one = _LOCK_ONE if writes else _READ_ONE
        self._read_many = _LOCK_MANY if writes else _READ_MANY
        self._front = _LOCK_FRONT if writes else _FRONT
        self._writes = writes

    async def do(self, work: Callable[[Executor], R], *, write: bool) -> R:
        """Do a collection's work in the transaction at hand."""
        if write:
            # The generic operations are rare, and may change anything.
            self.forget()
            self.wrote = self.announced = True
        return work(self.executor)

    def forget(self) -> None:
        """Drop what is known: the transaction is gone, or others wrote."""
        self.cache.clear()
        self.sink.forget()

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout]:
        known = self.cache.rollouts
        found: dict[str, Rollout] = {}
        missing: list[str] = []
        for key in rollout_ids:
            rollout = known.get(key)
            if rollout is None:
                missing.append(key)
            else:
                found[key] = rollout
        if missing:
            for rollout in ROLLOUTS.decode(self.executor, self._rollout_rows(missing)):
                self.cache.note(rollout)
                found[rollout.rollout_id] = rollout
        return found

    def _rollout_rows(self, keys: list[str]) -> list[Any]:
        if len(keys) == 1:
            return self.executor.rows(self._read_one, keys)
        rows: list[Any] = []
        for start in range(0, len(keys), _BATCH):
            batch = self.executor.array(keys[start : start + _BATCH])
            rows.extend(self.executor.rows(self._read_many, (batch,)))
        return rows

    async def find_attempt(self, rollout_id: str, attempt_id: str) -> Attempt | None:
        latest = self.cache.latest.get(rollout_id)
        if latest is not None and latest.attempt_id == attempt_id:
            return latest
        found = ATTEMPTS.by_key(self.executor, [(rollout_id, attempt_id)])
        return found[0] if found else None

    async def find_latest_attempts(self, rollout_ids: Sequence[str]) -> dict[str, Attempt]:
        known = self.cache.latest
        latest: dict[str, Attempt] = {}
        missing: list[str] = []
        for key in rollout_ids:
            attempt = known.get(key, UNKNOWN)
            if attempt is UNKNOWN:
                missing.append(key)
            elif attempt is not None:
                latest[key] = attempt
        if missing:
            read = self._latest_of(missing)
            for key in missing:
                known.put(key, read.get(key))
            latest.update(read)
        return latest

    def _latest_of(self, keys: list[str]) -> dict[str, Attempt]:
        if len(keys) == 1:
            rows = self.executor.rows(_LATEST, keys)
            return {row.rollout_id: row for row in ATTEMPTS.decode(self.executor, rows)}
        latest: dict[str, Attempt] = {}
        for attempt in ATTEMPTS.by_first(keys, self.executor):
            known = latest.get(attempt.rollout_id)
            if known is None or known.sequence_id < attempt.sequence_id:
                latest[attempt.rollout_id] = attempt
        return latest

    async def find_active(self) -> list[tuple[Rollout, Attempt]]:
        active = ROLLOUTS.decode(self.executor, self.executor.rows(_ACTIVE))
        latest = self._latest_of([rollout.rollout_id for rollout in active]) if active else {}
        pairs = ((rollout, latest.get(rollout.rollout_id)) for rollout in active)
        return [(rollout, attempt) for rollout, attempt in pairs if attempt is not None]

    async def find_worker(self, worker_id: str) -> Worker | None:
        worker = self.cache.workers.get(worker_id)
        if worker is None:
            found = WORKERS.by_key(self.executor, [(worker_id,)])
            if found:
                worker = found[0]
                self.cache.workers.put(worker_id, worker)
        return worker

    async def find_newest_resources(self) -> ResourcesUpdate | None:
        if self._writes:
            self.executor.lock(_PUBLISHERS)
        return self._newest()

    async def find_newest_resources_id(self) -> str | None:
        newest = self._newest()
        return None if newest is None else newest.resources_id

    def _newest(self) -> ResourcesUpdate | None:
        cache = self.cache
        if not cache.newest_known:
            found = RESOURCES.decode(self.executor, self.executor.rows(_NEWEST))
            cache.newest = found[0] if found else None
            cache.newest_known = True
        return cache.newest

    async def find_queued(
        self, limit: int, offset: int = 0, metadata: Mapping[str, Any] | None = None
    ) -> Sequence[str]:
        if metadata is None:
            rows = self.executor.rows(self._front, (limit, offset))
        else:
            # The queue is walked along; what has these pairs may be far more than what is queued.
            test = Filter(schema.rollouts, {"metadata"}).sql({"metadata": {"has": metadata}})
            if test is None:
                return await super().find_queued(limit, offset, metadata)
            query = _front(lock=False).with_only_columns(_q.ordinal, _q.value)
            query = query.join(schema.rollouts, _r.rollout_id == _q.value).where(test)
            query = query.limit(limit).offset(offset)
            if self._writes:
                query = query.with_for_update(of=schema.rollout_queue, skip_locked=True)
            rows = self.executor.select(query)
        places = self.cache.queued
        for place, value in rows:
            places.put(value, place)
        return [value for _, value in rows]

    async def find_sequence_ids(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        known = self.cache.sequence_ids
        found: dict[str, int] = {}
        for key in rollout_ids:
            number = known.get(key)
            if number is None:
                number = first(self.executor, _NUMBER, (key,)) or 0
                known.put(key, number)
            found[key] = number
        return found

    async def find_known_spans(
        self, rollout_id: str, attempt_id: str, span_ids: Sequence[str]
    ) -> set[str]:
        if self.cache.sequence_ids.get(rollout_id) == 0:
            # Whose sequence has not begun has no spans.
            return set()
        known: set[str] = set()
        for start in range(0, len(span_ids), _BATCH):
            batch = self.executor.array(span_ids[start : start + _BATCH])
            rows = self.executor.rows(_KNOWN_SPANS, (rollout_id, attempt_id, batch))
            known.update(row[0] for row in rows)
        return known

    async def find_reply(self, key: str) -> Reply | None:
        if self._writes:
            # A repeat that comes at the same time waits for the call that it repeats.
            self.executor.lock(f"reply/{key}")
        rows = self.executor.rows(_REPLY, (key,))
        return Reply(key, rows[0][0], from_text(rows[0][1])) if rows else None

    async def apply(self, changes: Changes) -> None:
        self.wrote = True
        self._writer.write(changes)
        self.announced = self.announced or bool(changes.events)
