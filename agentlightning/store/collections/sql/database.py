"""All collections of one SQL database: transactions, and the threads that run them.

Writes are done by one thread, each atomic block as one transaction in one visit. Reads have a
thread and a connection of their own and see the last committed state.
"""

from __future__ import annotations

import asyncio
import queue
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from agentlightning._internal.aio import drive
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collections.base import (
    AtomicLabels,
    AtomicMode,
    Collection,
    EventJournal,
    KeyValue,
    LightningCollections,
    Queue,
)
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.sequence import SqlCounters, SqlJournal, SqlQueue
from agentlightning.store.collections.sql.table import SqlCollection
from agentlightning.store.collections.sql.thread import DatabaseThread, Job, Line
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

R = TypeVar("R")
Work = Callable[[Connection], R]


class _RevokedError(Exception):
    """The caller left before the commit, so that the transaction is rolled back."""


def _transact(connection: Connection, job: Job[Any], work: Work[R]) -> R:
    try:
        with connection.begin():
            result = work(connection)
            if not job.may_commit():
                raise _RevokedError
            return result
    except (OperationalError, connection.dialect.loaded_dbapi.OperationalError) as error:
        raise StoreUnavailableError(f"The database did not answer: {error}") from error


def _close(*threads: DatabaseThread) -> None:
    for thread in threads:
        thread.close()


class _Block:
    """An atomic block that a task keeps open; the writer's thread serves it alone."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.jobs: Line = queue.SimpleQueue()
        self.failed = False

    def serve(self, connection: Connection) -> None:
        while (job := self.jobs.get()) is not None:
            job.run(connection)
        if self.failed:
            raise _RevokedError


class SqlLightningCollections(LightningCollections):
    """Everything a store keeps, in one SQL database whose tables exist.

    Args:
        engine: Where to connect; disposed of by `close`.
        begin_write: Execution options of the connection that writes.
    """

    loop_agnostic = True

    def __init__(self, engine: Engine, *, begin_write: dict[str, Any] | None = None) -> None:
        options = begin_write or {}
        writer = DatabaseThread(
            lambda: engine.connect().execution_options(**options), "agentlightning-writer"
        )
        reader = DatabaseThread(engine.connect, "agentlightning-reader")
        self._writer, self._reader = writer, reader
        # A store that nobody closed takes its threads with it, also at the interpreter's end.
        self._finalize = weakref.finalize(self, _close, writer, reader)
        self._engine = engine
        self._block: ContextVar[_Block | None] = ContextVar("block", default=None)
        self._rollouts: SqlCollection[Rollout] = SqlCollection(schema.rollouts, self._run)
        self._attempts: SqlCollection[Attempt] = SqlCollection(schema.attempts, self._run)
        self._spans: SqlCollection[Span] = SqlCollection(schema.spans, self._run)
        self._resources: SqlCollection[ResourcesUpdate] = SqlCollection(schema.resources, self._run)
        self._versions: SqlCollection[ResourcesUpdate] = SqlCollection(
            schema.resource_versions, self._run
        )
        self._workers: SqlCollection[Worker] = SqlCollection(schema.workers, self._run)
        self._queue = SqlQueue(self._run)
        self._counters = SqlCounters(self._run)
        self._journal = SqlJournal(self._run)

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

    async def _run(self, work: Work[R], *, write: bool) -> R:
        """Do a collection's work in the transaction at hand, or in one of its own."""
        for thread in (self._writer, self._reader):
            connection = thread.own_connection()
            if connection is not None:
                return work(connection)
        block = self._own_block()
        if block is not None:
            return await self._writer.call(lambda connection, _: work(connection), block.jobs)
        thread = self._writer if write else self._reader
        return await thread.call(lambda connection, job: _transact(connection, job, work))

    def _own_block(self) -> _Block | None:
        """Return the block that this task has open; tasks it started do not belong to it."""
        block = self._block.get()
        return block if block is not None and block.task is asyncio.current_task() else None

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
        def work(_: Connection) -> R:
            return drive(cast("Coroutine[Any, Any, R]", callback(self)))

        return await self._run(work, write=mode != "r")

    @asynccontextmanager
    async def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[LightningCollections]:
        if self._own_block() is not None or (mode == "r" and not snapshot):
            yield self
            return
        block = _Block()
        job = self._writer.submit(lambda connection, job: _transact(connection, job, block.serve))
        token = self._block.set(block)
        try:
            yield self
        except BaseException:
            block.failed = True
            raise
        finally:
            self._block.reset(token)
            block.jobs.put(None)
            await self._writer.finished(job)
        job.outcome()

    async def close(self) -> None:
        self._finalize()
        self._engine.dispose()
