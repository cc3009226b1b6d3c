"""All collections of one PostgreSQL database: connections, transactions, and trying again.

Steps run side by side, each on a connection of its own, on an event loop of their own. They lock
the rollouts that they read, so that two steps about one rollout come after one another.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast
from uuid import uuid4

from sqlalchemy import URL, func, select
from sqlalchemy.util import greenlet_spawn

from agentlightning._internal.aio import CommittedThenCancelledError, drive
from agentlightning._internal.clock import monotonic
from agentlightning._internal.io_loop import IoLoop
from agentlightning.errors import (
    AgentLightningError,
    ConfigurationError,
    InvalidRequestError,
    StoreUnavailableError,
)
from agentlightning.store.collections.base import AtomicLabels, AtomicMode, LightningCollections
from agentlightning.store.collections.sql.migration import prepare
from agentlightning.store.collections.sql.postgres_connection import DIALECT, PostgresConnection
from agentlightning.store.collections.sql.postgres_errors import (
    DRIVER_ERRORS,
    is_conflict,
    is_loss,
    is_refusal,
    sql_state,
)
from agentlightning.store.collections.sql.postgres_events import (
    end_process,
    listen,
    number_events,
    number_of,
    tell_of_events,
)
from agentlightning.store.collections.sql.postgres_functions import define
from agentlightning.store.collections.sql.postgres_pool import PoolOptions, PostgresPool
from agentlightning.store.collections.sql.postgres_search import index_parts
from agentlightning.store.collections.sql.postgres_session import PostgresSession
from agentlightning.store.collections.sql.rows import SqlRows
from agentlightning.store.collections.sql.session import SqlSession
from agentlightning.store.collections.sql.statement import Executor

R = TypeVar("R")
Step = Callable[[LightningCollections], Awaitable[R]]

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_MOST_CONFLICTS: Final = 20


class _CommitInDoubtError(Exception):
    """The connection was lost while the commit was under way."""

    def __init__(self, session: PostgresSession, result: Any) -> None:
        super().__init__()
        self.session = session
        self.result = result


class _Block:
    """An atomic block that a task keeps open."""

    def __init__(self, connection: Any) -> None:
        self.task = asyncio.current_task()
        self.connection = connection


class PostgresCollections(SqlRows):
    """Everything a store keeps, in one schema of a PostgreSQL database.

    Connects at the first use, and then creates or migrates the tables.

    Args:
        url: Where to connect, with SQLAlchemy's `postgresql+asyncpg` driver.
        pool: How many connections, and to which schema.
    """

    def __init__(self, url: URL, pool: PoolOptions) -> None:
        super().__init__(self._run)
        self._url = url
        self._options = pool
        self._name = f"agentlightning-{uuid4().hex[:12]}"
        self._io = IoLoop("agentlightning-postgres")
        self._finalize = weakref.finalize(self, self._io.close)
        _, arguments = DIALECT.create_connect_args(url)
        self._pool = PostgresPool(arguments, self._name, pool)
        self._preparing: asyncio.Task[str] | None = None
        self._schema = ""
        self._block: ContextVar[_Block | None] = ContextVar("block", default=None)

    @property
    def where(self) -> str:
        """The server and database, without secrets."""
        return self._url.set(drivername="postgresql").render_as_string(hide_password=True)

    async def _run(self, work: Callable[[Executor], R], *, write: bool) -> R:
        """Do a collection's work as a step of its own, or in this task's block."""

        async def step(rows: LightningCollections) -> R:
            return await cast("SqlSession", rows).do(work, write=write)

        block = self._own_block()
        if block is not None:
            return await self._io.run(lambda: greenlet_spawn(_run_in_block, block.connection, step))
        return await self.execute(step, mode="rw" if write else "r")

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
        return await self._io.run(lambda: self._insist(callback, mode != "r", snapshot))

    async def _insist(self, step: Step[R], writes: bool, snapshot: bool) -> R:
        """Run a step until it is committed or fails for a reason of its own."""
        end = monotonic() + self._options.wait_seconds
        pause = _FIRST_PAUSE
        conflicts = 0
        while True:
            try:
                await self._ready()
                return await self._transact(step, writes, snapshot, hopeful=not conflicts)
            except _CommitInDoubtError as doubt:
                result = await self._settle(doubt, end)
                if result is not None:
                    return cast("R", result[0])
            except DRIVER_ERRORS as error:
                conflicts += is_conflict(error)
                if not self._may_try_again(error, conflicts, end):
                    raise self._translated(error) from error
                if conflicts == 1:
                    # With locks it will go through.
                    continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _may_try_again(self, error: Exception, conflicts: int, end: float) -> bool:
        if isinstance(error, AgentLightningError):
            return False
        if is_conflict(error):
            return conflicts < _MOST_CONFLICTS
        return is_loss(error) and monotonic() < end

    def _translated(self, error: Exception) -> Exception:
        """Return the store's error for a driver's, or the error itself."""
        if isinstance(error, AgentLightningError):
            return error
        if sql_state(error)[:2] in {"28", "3D", "3F", "42"} and not self._schema:
            return ConfigurationError(f"{self.where} cannot be used as a store: {error}")
        if is_refusal(error):
            return InvalidRequestError(
                f"A value cannot be stored: {error}; use plain JSON values without NUL."
            )
        if is_loss(error) or is_conflict(error):
            return StoreUnavailableError(
                f"The PostgreSQL server at {self._url.host or 'localhost'} port "
                f"{self._url.port or 5432} did not answer: {error}; start it, or check the URL."
            )
        return error

    async def _ready(self) -> None:
        """Create or migrate the tables, once; whoever comes meanwhile waits for it."""
        if self._schema:
            return
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare())
        task = self._preparing
        try:
            self._schema = await asyncio.shield(task)
        finally:
            if task.done() and self._preparing is task:
                self._preparing = None

    async def _prepare(self) -> str:
        async with self._pool.connection() as connection:
            return await greenlet_spawn(self._create, PostgresConnection(connection))

    def _create(self, executor: PostgresConnection) -> str:
        executor.begin()
        if self._options.schema is not None:
            executor.lock("schema")
            executor.run(f"CREATE SCHEMA IF NOT EXISTS {self._options.schema}")
        prepare(executor, self.where)
        tell_of_events(executor)
        define(executor)
        index_parts(executor)
        ((schema,),) = executor.select(select(func.current_schema()))
        executor.commit()
        return schema

    async def _transact(self, step: Step[R], writes: bool, snapshot: bool, *, hopeful: bool) -> R:
        async with self._pool.connection() as connection:
            session = PostgresSession(
                PostgresConnection(connection), writes=writes, hopeful=hopeful and not snapshot
            )
            return await greenlet_spawn(_run_step, session, step, snapshot)

    async def _settle(self, doubt: _CommitInDoubtError, end: float) -> tuple[Any] | None:
        """Return the result of a commit that was done; None when it was not.

        What still runs for the lost connection is ended first, or it might commit after all when
        nobody looks any more. A step without events does the same when it is run again, so that it
        need not be known.
        """
        session = doubt.session
        if not session.marker:
            return None
        while True:
            try:
                async with self._pool.connection() as connection:
                    executor = PostgresConnection(connection)
                    process = session.postgres.process
                    await greenlet_spawn(end_process, executor, process, self._name, end)
                    last = await greenlet_spawn(number_of, executor, session.marker)
            except DRIVER_ERRORS as error:
                if not is_loss(error) or monotonic() > end:
                    raise self._translated(error) from error
                await asyncio.sleep(_LONGEST_PAUSE / 4)
            else:
                if last is None:
                    return None
                number_events(session.announcements, last)
                return (doubt.result,)

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

        connection, lent = await self._begin_block()
        token = self._block.set(_Block(connection))
        try:
            yield self
            await self._io.run(lambda: connection.execute("COMMIT"))
        except BaseException as error:
            # Who takes the connection back undoes what was not committed.
            await self._io.run(functools.partial(lent.__aexit__, type(error), error, None))
            raise
        else:
            await self._io.run(lent.aclose)
        finally:
            self._block.reset(token)

    async def _begin_block(self) -> tuple[Any, AsyncExitStack]:
        """Return a connection in a transaction, and what gives it back."""

        async def begin() -> tuple[Any, AsyncExitStack]:
            await self._ready()
            async with AsyncExitStack() as stack:
                connection = await stack.enter_async_context(self._pool.connection())
                await connection.execute("BEGIN")
                return connection, stack.pop_all()

        try:
            return await self._io.run(begin)
        except CommittedThenCancelledError as late:
            _, lent = late.result
            await self._io.run(lent.aclose)
            raise

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        async def follow() -> None:
            while not self._schema:
                try:
                    await self._ready()
                except (*DRIVER_ERRORS, ConfigurationError):
                    # Callers are told by their own calls.
                    await asyncio.sleep(_LONGEST_PAUSE)
            await listen(self._pool.connect, self._name, self._schema, notify)

        return self._io.spawn(follow)

    async def close(self) -> None:
        if self._finalize.alive:
            await self._io.run(self._pool.close)
            self._finalize()


def _run_step(session: PostgresSession, step: Step[R], snapshot: bool) -> R:
    """Run a step and commit it, in a greenlet."""
    executor = session.postgres
    if snapshot:
        executor.begin(snapshot=True)
    result = drive(cast("Coroutine[Any, Any, R]", step(session)))
    if session.doubt is not None:
        raise _CommitInDoubtError(session, result) from session.doubt
    if session.wrote and executor.in_transaction:
        try:
            executor.commit()
        except DRIVER_ERRORS as error:
            if is_loss(error):
                raise _CommitInDoubtError(session, result) from error
            raise
    return result


def _run_in_block(connection: Any, step: Step[R]) -> R:
    session = PostgresSession(PostgresConnection(connection))
    return drive(cast("Coroutine[Any, Any, R]", step(session)))
