"""All collections of one PostgreSQL database: connections, transactions, and trying again.

Steps run side by side, each on a connection of its own, on an event loop of their own. They lock
the rollouts that they read, so that two steps about one rollout come after one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from operator import methodcaller
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import uuid4

from sqlalchemy import URL, Connection, event, func, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from agentlightning._internal.aio import drive
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
from agentlightning.store.collections.sql.postgres_connection import (
    DRIVER_ERRORS,
    PostgresConnection,
    is_conflict,
    is_loss,
    is_refusal,
    sql_state,
)
from agentlightning.store.collections.sql.postgres_events import listen, tell_of_events
from agentlightning.store.collections.sql.rows import SqlRows
from agentlightning.store.collections.sql.sequence import SqlJournal
from agentlightning.store.collections.sql.session import SqlSession
from agentlightning.store.collections.sql.statement import Executor

R = TypeVar("R")
Step = Callable[[LightningCollections], Awaitable[R]]

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_MOST_CONFLICTS: Final = 20
_STATEMENTS: Final = 500


class PoolOptions(NamedTuple):
    """How a store uses connections."""

    schema: str | None = None
    """The schema that holds the tables, made as needed; None for the database's default."""
    size: int = 8
    """Connections kept open, and so the steps that run at once; one more hears of changes."""
    overflow: int = 0
    """Connections beyond that for peaks."""
    wait_seconds: float = 30.0
    """How long a step waits for a connection, and for a server that is away."""


class _CommitInDoubtError(Exception):
    """The connection was lost while the commit was under way."""

    def __init__(self, marker: tuple[int, str] | None, result: Any) -> None:
        super().__init__()
        self.marker = marker
        self.result = result


class _Block:
    """An atomic block that a task keeps open."""

    def __init__(self, connection: AsyncConnection) -> None:
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
        self._pool = pool
        self._name = f"agentlightning-{uuid4().hex[:12]}"
        self._io = IoLoop("agentlightning-postgres")
        self._finalize = weakref.finalize(self, self._io.close)
        settings = {"application_name": self._name}
        if pool.schema is not None:
            settings["search_path"] = pool.schema
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool.size,
            max_overflow=pool.overflow,
            pool_timeout=pool.wait_seconds,
            pool_reset_on_return=None,
            connect_args={"server_settings": settings, "statement_cache_size": _STATEMENTS},
        )
        event.listen(self._engine.sync_engine, "reset", _undo)
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
            return await self._io.run(lambda: _in_block(block.connection, step))
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
        end = monotonic() + self._pool.wait_seconds
        pause = _FIRST_PAUSE
        conflicts = 0
        while True:
            try:
                await self._ready()
                return await self._transact(step, writes, snapshot)
            except _CommitInDoubtError as doubt:
                result = await self._settle(doubt, end)
                if result is not None:
                    return cast("R", result[0])
            except DRIVER_ERRORS as error:
                conflicts += is_conflict(error)
                if not self._may_try_again(error, conflicts, end):
                    raise self._translated(error) from error
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
        if isinstance(error, PoolTimeoutError) or (is_loss(error) or is_conflict(error)):
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
        async with self._engine.connect() as connection:
            return await connection.run_sync(self._create)

    def _create(self, connection: Connection) -> str:
        executor = PostgresConnection(connection)
        executor.begin()
        if self._pool.schema is not None:
            executor.lock("schema")
            executor.run(f"CREATE SCHEMA IF NOT EXISTS {self._pool.schema}")
        prepare(executor, self.where)
        tell_of_events(executor)
        ((schema,),) = executor.select(select(func.current_schema()))
        executor.commit()
        return schema

    async def _transact(self, step: Step[R], writes: bool, snapshot: bool) -> R:
        async with self._engine.connect() as connection:
            try:
                result, session = await connection.run_sync(_run_step, step, writes, snapshot)
                if session is not None:
                    await self._commit(connection, session, result)
            except (asyncio.CancelledError, _CommitInDoubtError):
                # What it was doing when it was interrupted, nobody knows.
                await connection.invalidate()
                raise
            except DRIVER_ERRORS as error:
                if is_loss(error):
                    await connection.invalidate()
                raise
            return result

    async def _commit(self, connection: AsyncConnection, session: SqlSession, result: Any) -> None:
        """Commit; whoever is cancelled meanwhile learns what came of it."""
        commit = asyncio.ensure_future(
            connection.run_sync(lambda c: PostgresConnection(c).commit())
        )
        while not commit.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([commit])
        error = commit.exception()
        if error is None:
            return
        if is_loss(error):
            raise _CommitInDoubtError(session.marker, result) from error
        raise error

    async def _settle(self, doubt: _CommitInDoubtError, end: float) -> tuple[Any] | None:
        """Return the result of a commit that was done; None when it was not.

        The events' total is locked until such a transaction has ended, one way or the other. A
        step without events does the same when it is run again, so that it need not be known.
        """
        if doubt.marker is None:
            return None
        seq, body = doubt.marker
        while True:
            try:
                async with self._engine.connect() as connection:
                    stored = await connection.run_sync(_stored_events, seq)
            except DRIVER_ERRORS as error:
                if not is_loss(error) or monotonic() > end:
                    raise self._translated(error) from error
                await asyncio.sleep(_LONGEST_PAUSE / 4)
            else:
                return (doubt.result,) if stored == body else None

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

        async def begin() -> AsyncConnection:
            await self._ready()
            connection = await self._engine.connect().start()
            await connection.run_sync(lambda inner: PostgresConnection(inner).begin())
            return connection

        connection = await self._io.run(begin)
        token = self._block.set(_Block(connection))
        try:
            yield self
            await self._io.run(
                lambda: connection.run_sync(lambda inner: PostgresConnection(inner).commit())
            )
        except BaseException:
            # Closing the connection undoes what was not committed.
            await self._io.run(connection.invalidate)
            raise
        finally:
            self._block.reset(token)
            await self._io.run(connection.close)

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        async def follow() -> None:
            while not self._schema:
                try:
                    await self._ready()
                except (*DRIVER_ERRORS, ConfigurationError):
                    # Callers are told by their own calls.
                    await asyncio.sleep(_LONGEST_PAUSE)
            await listen(self._connect, self._name, self._schema, notify)

        return self._io.spawn(follow)

    async def _connect(self) -> Any:
        from asyncpg import connect

        _, arguments = self._engine.dialect.create_connect_args(self._url)
        return await connect(**arguments)

    async def close(self) -> None:
        if self._finalize.alive:
            await self._io.run(self._engine.dispose)
            self._finalize()


def _undo(driver: Any, *_: Any) -> None:
    """Leave no transaction open on a connection that goes back to the pool."""
    if driver.driver_connection.is_in_transaction():
        driver.run_async(methodcaller("execute", "ROLLBACK"))


def _run_step(
    connection: Connection, step: Step[R], writes: bool, snapshot: bool
) -> tuple[R, SqlSession | None]:
    """Run a step; return its result, and its session if there is something to commit."""
    executor = PostgresConnection(connection)
    session = SqlSession(executor, writes=writes)
    if not writes and not snapshot:
        return drive(cast("Coroutine[Any, Any, R]", step(session))), None
    executor.begin(snapshot=snapshot)
    result = drive(cast("Coroutine[Any, Any, R]", step(session)))
    return result, session if session.wrote else None


async def _in_block(connection: AsyncConnection, step: Step[R]) -> R:
    def work(inner: Connection) -> R:
        return drive(cast("Coroutine[Any, Any, R]", step(SqlSession(PostgresConnection(inner)))))

    return await connection.run_sync(work)


def _stored_events(connection: Connection, seq: int) -> str | None:
    executor = PostgresConnection(connection)
    executor.begin()
    return SqlJournal.stored(executor, seq)
