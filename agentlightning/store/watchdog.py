"""A thread that does a store's own work at the right times: the watchdog's clock.

It knows nothing of what it calls, which returns when it wants to be called again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

from agentlightning._internal.clock import monotonic, now

logger = logging.getLogger(__name__)

Scan = Callable[[], Coroutine[Any, Any, float | None]]

_SHORTEST_PAUSE: Final = 0.02
_PAUSE_PER_SCAN: Final = 20
"""A scan that took t seconds is not repeated for 20 t, so that it uses at most 5 % of a core."""
_RETRY_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0


class Watchdog:
    """Calls a store's scan at the right times, on a daemon thread of its own.

    The thread starts with the first deadline, and ends with `stop` or with the store, which is
    only referenced weakly. All methods may be called from any thread.

    Args:
        scan: A bound coroutine method; returns when to scan again in unix seconds, or None.
        name: The thread's name.
    """

    def __init__(self, scan: Scan, name: str = "agentlightning-watchdog") -> None:
        self._name = name
        self._condition = threading.Condition()
        self._scan = weakref.WeakMethod(scan, lambda _: self._halt())
        self._next: float | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Return whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def expect(self, when: float) -> None:
        """Scan at `when` (unix seconds) at the latest."""
        with self._condition:
            if self._stopped or (self._next is not None and self._next <= when):
                return
            self._next = when
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify()

    def expect_now(self) -> None:
        """Scan at once, or once more if a scan is under way."""
        self.expect(0.0)

    def stop(self) -> None:
        """End the thread and wait for it; idempotent, and final."""
        self._halt()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)

    def _halt(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def _is_due(self) -> bool:
        """Wait until a scan is due; False when the watchdog was stopped."""
        with self._condition:
            while not self._stopped:
                wait = None if self._next is None else self._next - now()
                if wait is not None and wait <= 0:
                    self._next = None
                    return True
                self._condition.wait(wait)
            return False

    def _work(self) -> None:
        with asyncio.Runner() as runner:
            while self._is_due():
                scan = self._scan()
                if scan is None:
                    return
                began = monotonic()
                try:
                    upcoming = runner.run(scan())
                except Exception:
                    logger.warning(
                        "scan failed, trying again",
                        extra={"thread_name": self._name},
                        exc_info=True,
                    )
                    upcoming = now() + _RETRY_SECONDS
                del scan
                if upcoming is not None:
                    pause = max(_SHORTEST_PAUSE, _PAUSE_PER_SCAN * (monotonic() - began))
                    self.expect(max(upcoming, now() + pause))
