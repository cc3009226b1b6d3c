"""Stop signals: one flag that threads or processes share."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.context import BaseContext

from agentlightning._internal.clock import monotonic
from agentlightning.types.event import ExecutionEvent

__all__ = ["ExecutionEvent", "MultiprocessingEvent", "ThreadingEvent"]


class ThreadingEvent:
    """An `ExecutionEvent` for the threads of one process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Raise the flag; again is harmless."""
        self._event.set()

    def clear(self) -> None:
        """Lower the flag."""
        self._event.clear()

    def is_set(self) -> bool:
        """Return whether the flag is up."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is up or `timeout` seconds passed; return whether it is up."""
        return self._event.wait(timeout)


class MultiprocessingEvent:
    """An `ExecutionEvent` for processes: forked, or given to them as an argument.

    The flag is a byte that lies unread in a pipe. Nothing is ever locked, so that a process
    which is killed in the middle of a call leaves the others working; the lock inside
    `multiprocessing.Event` would stay taken for ever.
    """

    def __init__(self, *, ctx: BaseContext | None = None) -> None:
        """Make the flag, lowered.

        Args:
            ctx: Accepted for compatibility; the pipe is the same under every start method.
        """
        self._reader, self._writer = (ctx or multiprocessing).Pipe(duplex=False)

    def set(self) -> None:
        """Raise the flag; again is harmless."""
        if not self.is_set():
            self._writer.send_bytes(b"1")

    def clear(self) -> None:
        """Lower the flag; not meant to race with `set`."""
        while self._reader.poll(0):
            self._reader.recv_bytes()

    def is_set(self) -> bool:
        """Return whether the flag is up."""
        return self._reader.poll(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is up or `timeout` seconds passed; return whether it is up."""
        deadline = None if timeout is None else monotonic() + timeout
        while not self._reader.poll(None if deadline is None else max(0.0, deadline - monotonic())):
            if deadline is not None and monotonic() >= deadline:
                return False
        return True
