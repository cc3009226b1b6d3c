"""The books of delivery: for each attempt, how many spans were announced, stored and dropped."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

__all__ = ["Delivery"]


@dataclass(slots=True, weakref_slot=True, eq=False)
class Delivery:
    """Counts for one attempt; every method may be called from any thread."""

    rollout_id: str
    attempt_id: str
    sent: int = 0
    """Spans that the store acknowledged."""
    dropped: int = 0
    """Spans given up."""
    pending: int = 0
    """Spans announced and neither stored nor given up."""
    # Reentrant: garbage that is collected inside may announce a span as it goes.
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _waiters: list["Future[None]"] = field(default_factory=list["Future[None]"])

    def announce(self) -> None:
        """Count one span that is to be stored."""
        with self._lock:
            self.pending += 1

    def settle(self, *, sent: int = 0, dropped: int = 0) -> None:
        """Count spans that were stored or given up, and wake who waits for the last of them."""
        with self._lock:
            self.sent += sent
            self.dropped += dropped
            self.pending -= sent + dropped
            if self.pending:
                return
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            # A waiter that stopped waiting has cancelled its future.
            if waiter.set_running_or_notify_cancel():
                waiter.set_result(None)

    def drained(self) -> "Future[None]":
        """Return a future that is done once nothing is pending."""
        future: Future[None] = Future()
        with self._lock:
            if self.pending:
                self._waiters.append(future)
                return future
        future.set_result(None)
        return future
