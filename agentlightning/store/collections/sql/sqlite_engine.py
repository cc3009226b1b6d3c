"""Steps on one SQLite connection: whose turn it is, what is committed together, what is run again.

Everything here runs under one lock, in whatever thread the caller is.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from agentlightning._internal.aio import drive
from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.sql.job import Job
from agentlightning.store.collections.sql.session import SqlSession
from agentlightning.store.collections.sql.sqlite_connection import (
    BusyError,
    SqliteConnection,
    Synchronous,
    TooLongError,
    translated,
)
from agentlightning.store.collections.sql.statement import Executor

R = TypeVar("R")
Step = Callable[[LightningCollections], Awaitable[Any]]

_BUSY_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.01
_LOOK_EVERY: Final = 8
"""Commits between two looks at the size of the write-ahead log."""


class QuickSession(SqlSession):
    """A session that only answers what takes little time, by breaking off what does not."""

    def __init__(self, connection: SqliteConnection, session: SqlSession) -> None:
        super().__init__(connection, cache=session.cache, sink=session.sink)
        self._connection = connection

    async def do(self, work: Callable[[Executor], R], *, write: bool) -> R:
        if write:
            raise TooLongError
        with self._connection.briefly():
            return work(self._connection)


class SqliteEngine:
    """The connection that writes, and its transactions.

    Args:
        path: The file.
        synchronous: See `SqliteConnection`.
        on_growth: Called with the write-ahead log's size in bytes and the number of commits, now
            and then.
    """

    def __init__(
        self,
        path: Path,
        synchronous: Synchronous,
        on_growth: Callable[[int, int], None],
    ) -> None:
        self.lock = threading.Lock()
        self.busy_seconds = _BUSY_SECONDS
        self.connection = SqliteConnection(path, synchronous=synchronous, patient=False)
        self.session = SqlSession(self.connection)
        self.on_events: Callable[[], None] | None = None
        """Called after a commit of events, under the lock."""
        self._quick = QuickSession(self.connection, self.session)
        self._version = -1
        self._commits = 0
        self._log = f"{path}-wal"
        self._on_growth = on_growth

    def begin(self, *, write: bool) -> None:
        """Begin a transaction, and forget what others may have changed.

        Raises:
            BusyError: Another process writes.
        """
        version = self.connection.begin(write=write)
        if version != self._version:
            self._version = version
            self.session.forget()

    def commit(self) -> None:
        """Commit, and let others know."""
        self.connection.commit()
        session = self.session
        if session.announced:
            session.announced = False
            if self.on_events is not None:
                self.on_events()
        self._commits += 1
        if self._commits % _LOOK_EVERY == 0:
            self._on_growth(os.stat(self._log).st_size, self._commits)  # noqa: PTH116 - Perf: 1 µs, not 5.

    def rollback(self) -> None:
        """Undo the transaction."""
        self.session.forget()
        self.session.announced = False
        self.connection.rollback()

    def write(self, step: Step) -> Any:
        """Run one step as a transaction of its own.

        Raises:
            BusyError: Another process writes; nothing was done.
        """
        self.begin(write=True)
        try:
            result = drive(cast("Coroutine[Any, Any, Any]", step(self.session)))
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return result

    def read(self, step: Step) -> Any:
        """Run a step that only reads, if that is quick.

        Raises:
            TooLongError: It is not.
            BusyError: The database is locked as a whole.
        """
        self.begin(write=False)
        try:
            return drive(cast("Coroutine[Any, Any, Any]", step(self._quick)))
        finally:
            self.connection.rollback()

    def write_together(self, jobs: Sequence[Job[Step]]) -> list[Job[Step]]:
        """Run several steps as one transaction; each is finished, whatever came of it.

        Returns:
            Those that were not run because another process writes.
        """
        jobs = [job for job in jobs if not _left(job)]
        if not jobs:
            return []
        try:
            self.begin(write=True)
        except BusyError:
            return list(jobs)
        outcomes: list[tuple[Job[Step], Any, BaseException | None]] = []
        for job in jobs:
            self.session.wrote = False
            try:
                result = drive(cast("Coroutine[Any, Any, Any]", job.work(self.session)))
                outcomes.append((job, result, None))
            except Exception as error:  # noqa: BLE001 - boundary: it is raised at the caller.
                outcomes.append((job, None, error))
                if self.session.wrote and len(jobs) > 1:
                    self.rollback()
                    return self._write_apart(jobs)
            except BaseException as error:
                self.rollback()
                for each in jobs:
                    each.finish(error=error)
                raise
        return self._settle(outcomes)

    def _settle(
        self, outcomes: Sequence[tuple[Job[Step], Any, BaseException | None]]
    ) -> list[Job[Step]]:
        jobs = [job for job, _, _ in outcomes]
        failed = len(jobs) == 1 and outcomes[0][2] is not None
        # What one caller took back must not be committed with what the others asked for.
        kept = [job for job in jobs if job.may_commit()]
        if failed or len(kept) < len(jobs):
            self.rollback()
            if not failed:
                return self._write_apart(jobs)
        else:
            try:
                self.commit()
            except sqlite3.Error as error:
                self.rollback()
                failure = translated(error)
                outcomes = [(job, None, failure) for job in jobs]
        for job, result, error in outcomes:
            job.finish(result, translated(error) if isinstance(error, Exception) else error)
        return []

    def _write_apart(self, jobs: Sequence[Job[Step]]) -> list[Job[Step]]:
        """Run steps one by one, since they cannot be committed together."""
        return [left for job in jobs for left in self.write_together([job])]

    def serve(self, jobs: list[Job[Step]]) -> None:
        """Run steps in a thread that may wait for other processes."""
        end = monotonic() + self.busy_seconds
        pause = _FIRST_PAUSE
        left = jobs
        while left:
            with self.lock:
                left = self.write_together(left)
            if left and monotonic() > end:
                for job in left:
                    job.finish(
                        error=StoreUnavailableError(
                            "Another process has kept the database locked for "
                            f"{self.busy_seconds:g} seconds; try again."
                        )
                    )
                return
            if left:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def begin_patiently(self) -> None:
        """Take the lock and begin a writing transaction, however long others write."""
        end = monotonic() + self.busy_seconds
        pause = _FIRST_PAUSE
        while True:
            self.lock.acquire()
            try:
                self.begin(write=True)
            except BusyError:
                self.lock.release()
                if monotonic() > end:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except BaseException:
                self.lock.release()
                raise
            else:
                return

    def close(self) -> None:
        """Close the connection; idempotent."""
        with self.lock:
            self.connection.close()


def _left(job: Job[Step]) -> bool:
    """Finish a job whose caller has left."""
    if job.revoked:
        job.finish()
    return job.revoked
