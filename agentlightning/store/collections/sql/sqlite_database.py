"""All collections of one SQLite file: which thread runs what.

Perf: a commit that does not wait for the disk takes microseconds, less than handing it to another
thread. So steps run in the thread of their caller; what may take long, or has to wait for another
process, is handed to a thread that may wait. The event loop is never held up.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from agentlightning._internal.aio import drive
from agentlightning.errors import StoreError
from agentlightning.store.collections.base import AtomicLabels, AtomicMode, LightningCollections
from agentlightning.store.collections.sql.job import Job, JobThread
from agentlightning.store.collections.sql.lane import Lane, Lanes
from agentlightning.store.collections.sql.rows import SqlRows
from agentlightning.store.collections.sql.session import SqlSession
from agentlightning.store.collections.sql.sqlite_connection import (
    BusyError,
    SqliteConnection,
    Synchronous,
    TooLongError,
    translated,
)
from agentlightning.store.collections.sql.sqlite_engine import (
    SqliteEngine,
    Step,
)
from agentlightning.store.collections.sql.sqlite_log import LogKeeper
from agentlightning.store.collections.sql.sqlite_signal import Listener, Teller, folder_of
from agentlightning.store.collections.sql.statement import Executor

R = TypeVar("R")

_PATIENCE_SECONDS: Final = 0.002
"""How long a caller's thread waits for another one's step."""


class _Reader:
    """The connection for long reads, served by a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: SqlSession | None = None
        self._connection: SqliteConnection | None = None

    def serve(self, jobs: list[Job[Step]]) -> None:
        """Run reading steps, each in a transaction of its own."""
        for job in jobs:
            try:
                job.finish(self._read(job.work))
            except sqlite3.Error as error:
                job.finish(error=translated(error))

    def _read(self, step: Step) -> Any:
        if self._connection is None or self._session is None:
            self._connection = SqliteConnection(self._path)
            self._session = SqlSession(self._connection, writes=False)
        self._session.forget()
        self._connection.begin(write=False)
        try:
            return drive(cast("Coroutine[Any, Any, Any]", step(self._session)))
        finally:
            self._connection.rollback()

    def close(self) -> None:
        """Close the connection; its thread has ended."""
        if self._connection is not None:
            self._connection.close()


class _Block:
    """An atomic block that a task keeps open."""

    def __init__(self) -> None:
        self.task = asyncio.current_task()


class _Threads:
    """What has to be ended with the store, also when nobody closed it."""

    def __init__(self, path: Path, synchronous: Synchronous) -> None:
        self.log = LogKeeper(path, lambda: self.engine.lock)
        self.engine = SqliteEngine(path, synchronous, self.log.grown)
        self.writer: JobThread[Step] = JobThread(self.engine.serve, "agentlightning-writer")
        self.teller = Teller(folder_of(path))
        self.engine.on_events = self.teller.tell
        self.listeners: list[Listener] = []
        self._reader = _Reader(path)
        self.reader: JobThread[Step] = JobThread(
            self._reader.serve, "agentlightning-reader", most=1
        )
        self._process = os.getpid()

    def close(self) -> None:
        """End the threads and close the connections; idempotent."""
        if os.getpid() != self._process:
            # A connection that came through a fork must not be touched.
            return
        for listener in list(self.listeners):
            listener.stop()
        self.writer.close()
        self.reader.close()
        self.log.close()
        self._reader.close()
        self.engine.close()
        self.teller.close()


class SqliteCollections(SqlRows):
    """Everything a store keeps, in one SQLite file whose tables exist.

    Args:
        path: The file.
        synchronous: With `full`, a commit waits for the disk (in a thread), and survives a power
            cut; with `normal`, it survives the end of the process.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "normal") -> None:
        super().__init__(self._run)
        self._path = path
        self._threads = _Threads(path, synchronous)
        self._engine = self._threads.engine
        self._finalize = weakref.finalize(self, self._threads.close)
        self._inline = synchronous == "normal"
        self._lanes = Lanes()
        self._process = os.getpid()
        self._blocks = 0
        self._block: ContextVar[_Block | None] = ContextVar("block", default=None)

    async def _run(self, work: Callable[[Executor], R], *, write: bool) -> R:
        """Do a collection's work as a step of its own, or in this task's block."""

        async def step(rows: LightningCollections) -> R:
            return await cast("SqlSession", rows).do(work, write=write)

        return await self.execute(step, mode="rw" if write else "r")

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
        if os.getpid() != self._process:
            raise StoreError(
                "This store was opened in another process; open it anew here, or use it through "
                "a LightningStoreServer."
            )
        if not self._finalize.alive:
            raise StoreError("The store is closed; open it again.")
        if self._blocks and self._in_own_block():
            return drive(cast("Coroutine[Any, Any, R]", callback(self._engine.session)))
        if mode == "r":
            return await self._read(callback)
        return await self._write(callback)

    def _in_own_block(self) -> bool:
        """Return whether this task has a block open; tasks it started do not belong to it."""
        block = self._block.get()
        return block is not None and block.task is asyncio.current_task()

    async def _read(self, callback: Callable[[LightningCollections], Awaitable[R]]) -> R:
        lock = self._engine.lock
        if not self._blocks and lock.acquire(timeout=_PATIENCE_SECONDS):
            try:
                return self._engine.read(callback)
            except (TooLongError, BusyError):
                pass
            except sqlite3.Error as error:
                raise translated(error) from error
            finally:
                lock.release()
        return await self._threads.reader.submit(callback).outcome()

    async def _write(self, callback: Callable[[LightningCollections], Awaitable[R]]) -> R:
        writer = self._threads.writer
        if not self._inline or self._blocks or writer.is_busy:
            return await writer.submit(callback).outcome()
        lane = self._lane()
        if not lane.may_go_on():
            job: Job[Step] = Job(callback)
            lane.gather(job)
            return await job.outcome()
        lock = self._engine.lock
        if lock.acquire(timeout=_PATIENCE_SECONDS):
            try:
                return self._engine.write(callback)
            except BusyError:
                pass
            except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
                raise translated(error) from error
            finally:
                lock.release()
        return await writer.submit(callback).outcome()

    def _lane(self) -> Lane:
        loop = asyncio.get_running_loop()
        lane = self._lanes.lane
        if lane is None or lane.loop is not loop:
            lane = self._lanes.lane = Lane(loop, self._run_gathered)
        return lane

    def _run_gathered(self, jobs: list[Job[Step]]) -> None:
        left = jobs
        lock = self._engine.lock
        if not self._blocks and lock.acquire(timeout=_PATIENCE_SECONDS):
            try:
                left = self._engine.write_together(jobs)
            finally:
                lock.release()
        self._threads.writer.pass_on(left)

    @asynccontextmanager
    async def atomic(
        self,
        mode: AtomicMode = "rw",
        snapshot: bool = False,
        commit: bool = False,
        labels: Sequence[AtomicLabels] | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[LightningCollections]:
        if (self._blocks and self._in_own_block()) or (mode == "r" and not snapshot):
            yield self
            return
        engine = self._engine
        begun = asyncio.ensure_future(asyncio.to_thread(engine.begin_patiently))
        try:
            await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(lambda _: self._abandon())
            raise
        except (BusyError, sqlite3.Error) as error:
            raise translated(error) from error
        self._blocks += 1
        token = self._block.set(_Block())
        try:
            yield self
            engine.commit()
        except BaseException:
            engine.rollback()
            raise
        finally:
            self._block.reset(token)
            self._blocks -= 1
            engine.lock.release()

    def _abandon(self) -> None:
        self._engine.rollback()
        self._engine.lock.release()

    def watch(self, notify: Callable[[], None]) -> Callable[[], None] | None:
        threads = self._threads
        listener = Listener(self._path, threads.teller.own, notify)
        threads.listeners.append(listener)

        def stop() -> None:
            listener.stop()
            if listener in threads.listeners:
                threads.listeners.remove(listener)

        return stop

    async def close(self) -> None:
        self._finalize()
