"""Work on its way to another thread and back, and the threads that do such work."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning.errors import StoreError

T = TypeVar("T")
W = TypeVar("W")

_STOP_SECONDS: Final = 10.0
_MOST_AT_ONCE: Final = 256


class Job(Generic[W]):
    """One piece of work, and where its result goes.

    Args:
        work: What is to be done; whoever serves the job knows how to do it.
    """

    def __init__(self, work: W) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = threading.Event()
        self._guard = threading.Lock()
        self._revoked = False
        self._committing = False
        self._notify: Callable[[], object] | None = None
        self._arrived: asyncio.Future[None] | None = None

    @property
    def revoked(self) -> bool:
        """Whether the caller has left, so that the work shall not be done."""
        return self._revoked or (self._arrived is not None and self._arrived.cancelled())

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

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        """Deliver what came of the work; the first delivery counts."""
        with self._guard:
            if self._done.is_set():
                return
            self.result, self.error = result, error
            self._done.set()
            notify = self._notify
        if notify is not None:
            notify()

    def _when_done(self, notify: Callable[[], object]) -> None:
        """Call `notify` from the thread once the work is done, or now if it is."""
        with self._guard:
            done = self._done.is_set()
            self._notify = None if done else notify
        if done:
            notify()

    async def _arrival(self) -> None:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        self._arrived = arrived

        def resolve() -> None:
            if not arrived.done():
                arrived.set_result(None)

        home = threading.get_ident()

        def notify() -> None:
            if threading.get_ident() == home:
                resolve()
                return
            try:
                loop.call_soon_threadsafe(resolve)
            except RuntimeError:
                # The loop was closed meanwhile: nobody waits any more.
                return

        self._when_done(notify)
        await arrived

    async def outcome(self) -> Any:
        """Wait for the result without blocking the event loop, and return or raise it.

        Raises:
            CommittedThenCancelledError: The caller was cancelled after the work had been done.
        """
        try:
            await self._arrival()
        except asyncio.CancelledError:
            if self.revoke():
                raise
            self._done.wait()
            if self.error is not None:
                raise
            raise CommittedThenCancelledError(self.result) from None
        if self.error is not None:
            raise self.error
        return self.result


class JobThread(Generic[W]):
    """A thread that serves jobs in order of arrival, those that wait already together.

    Args:
        serve: Does some jobs and finishes each; those that it leaves get what it raises.
        name: The thread's name.
        most: How many jobs are served together.
    """

    def __init__(
        self, serve: Callable[[list[Job[W]]], None], name: str, *, most: int = _MOST_AT_ONCE
    ) -> None:
        self._serve = serve
        self._most = most
        self._jobs: queue.SimpleQueue[Job[W] | None] = queue.SimpleQueue()
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._closed = False
        self._waiting = 0
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether jobs are in line or being served."""
        return self._waiting > 0

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, work: W) -> Job[W]:
        """Put work in line; the thread starts with the first.

        Raises:
            StoreError: The store is closed.
        """
        job = Job(work)
        self._put(job)
        return job

    def pass_on(self, jobs: Sequence[Job[W]]) -> None:
        """Put jobs in line that somebody else could not do."""
        for job in jobs:
            try:
                self._put(job)
            except StoreError as error:
                job.finish(error=error)

    def _put(self, job: Job[W]) -> None:
        with self._guard:
            if self._closed:
                raise StoreError("The store is closed; open it again.")
            self._waiting += 1
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Finish what is in line and end the thread; idempotent."""
        with self._guard:
            first = not self._closed
            self._closed = True
            if first:
                self._jobs.put(None)
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        if os.getpid() == self._process:
            thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while len(jobs) < self._most and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    self._jobs.put(None)
                    break
                jobs.append(job)
            count = len(jobs)
            try:
                self._serve(jobs)
            except BaseException as error:  # noqa: BLE001 - boundary: thread top, told to callers.
                for left in jobs:
                    left.finish(error=error)
            del job, jobs
            with self._guard:
                self._waiting -= count
