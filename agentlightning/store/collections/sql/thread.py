"""A thread that owns one database connection and does everything that is done with it.

Any number of event loops and threads may submit work; it is done in order of arrival.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning.errors import StoreError, StoreUnavailableError

T = TypeVar("T")
Work = Callable[[Connection, "Job[Any]"], T]
Line = queue.SimpleQueue["Job[Any] | None"]

_STOP_SECONDS = 10.0


class Job(Generic[T]):
    """One piece of work, and where its result goes."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.result: T | None = None
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._guard = threading.Lock()
        self._revoked = False
        self._committing = False
        self._notify: Callable[[], object] | None = None

    def revoke(self) -> bool:
        """Ask for the work to be undone; False when it is too late for that."""
        with self._guard:
            self._revoked = not self._committing
            return self._revoked

    def may_commit(self) -> bool:
        """Pass the point of no return; False when the work was revoked before."""
        with self._guard:
            self._committing = not self._revoked
            return self._committing

    def run(self, connection: Connection) -> None:
        """Do the work and deliver what came of it."""
        if not self._revoked:
            try:
                self.result = self.work(connection, self)
            except BaseException as error:  # noqa: BLE001 - boundary: it is raised at the caller.
                self.error = error
        self._finish()

    def fail(self, error: BaseException) -> None:
        """Deliver an error instead of doing the work."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        with self._guard:
            self._done.set()
            notify = self._notify
        if notify is not None:
            notify()

    def when_done(self, notify: Callable[[], object]) -> None:
        """Call `notify` from the thread once the work is done, or now if it is."""
        with self._guard:
            done = self._done.is_set()
            self._notify = None if done else notify
        if done:
            notify()

    def wait(self) -> BaseException | None:
        """Wait until it is done, blocking, and return its error, if any."""
        self._done.wait()
        return self.error

    def outcome(self) -> T:
        """Return the result of work that is done, or raise its error."""
        if self.error is not None:
            raise self.error
        return self.result  # pyright: ignore[reportReturnType]  # None only if T is.


class DatabaseThread:
    """Owner of one connection.

    Args:
        connect: Opens the connection; called in the thread.
        name: The thread's name.
    """

    def __init__(self, connect: Callable[[], Connection], name: str) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._jobs: Line = queue.SimpleQueue()
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def own_connection(self) -> Connection | None:
        """Return the connection if the caller runs in this thread, else None."""
        return self._connection if threading.get_ident() == self._thread.ident else None

    def submit(self, work: Work[T], line: Line | None = None) -> Job[T]:
        """Put work in line: the thread's own, or another one that the thread is serving.

        Raises:
            StoreError: The store is closed, or was opened before this process was forked.
        """
        if os.getpid() != self._process:
            raise StoreError(
                "This store was opened in another process; open it anew here, or use it through "
                "a LightningStoreServer."
            )
        job: Job[T] = Job(work)
        with self._guard:
            if self._closed:
                raise StoreError("The store is closed; open it again.")
            (line or self._jobs).put(job)
        return job

    async def call(self, work: Work[T], line: Line | None = None) -> T:
        """Do work in the thread, and wait for it without blocking the event loop.

        Raises:
            CommittedThenCancelledError: The caller was cancelled after the work had been done.
        """
        job = self.submit(work, line)
        try:
            await self.finished(job)
        except asyncio.CancelledError:
            if job.revoke():
                raise
            if job.wait() is not None:
                raise
            raise CommittedThenCancelledError(job.outcome()) from None
        return job.outcome()

    async def finished(self, job: Job[Any]) -> None:
        """Wait until a job is done, whatever came of it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def notify() -> None:
            try:
                loop.call_soon_threadsafe(resolve)
            except RuntimeError:
                # The loop was closed meanwhile: nobody waits any more.
                return

        job.when_done(notify)
        await arrived

    def close(self) -> None:
        """Finish what is in line, close the connection and end the thread; idempotent."""
        with self._guard:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        if os.getpid() == self._process and self.own_connection() is None:
            self._thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - boundary: thread top, told to each caller.
            self._refuse_all(error)
            return
        self._connection = connection
        with connection:
            while (job := self._jobs.get()) is not None:
                job.run(connection)
                del job

    def _refuse_all(self, error: Exception) -> None:
        while (job := self._jobs.get()) is not None:
            refusal = StoreUnavailableError(f"The database cannot be opened: {error}")
            refusal.__cause__ = error
            job.fail(refusal)
