"""The watchdog's thread: when it scans, and when it ends."""

import gc
import threading
import time

from agentlightning._internal.clock import now
from agentlightning.store.watchdog import Watchdog


class Scanned:
    """Counts scans; returns the deadlines it was given, one by one."""

    def __init__(self, *upcoming):
        self.upcoming = list(upcoming)
        self.times: list[float] = []
        self.happened = threading.Semaphore(0)

    async def scan(self):
        self.times.append(now())
        self.happened.release()
        following = self.upcoming.pop(0) if self.upcoming else None
        if isinstance(following, Exception):
            raise following
        return following


def test_no_thread_without_a_deadline():
    """Nothing runs until there is something to expect."""
    watchdog = Watchdog(Scanned().scan)
    assert not watchdog.is_running
    watchdog.stop()
    watchdog.expect(now())
    assert not watchdog.is_running


def test_scans_at_the_earliest_deadline():
    """A nearer deadline moves the scan forward; a farther one does not move it back."""
    scanned = Scanned()
    watchdog = Watchdog(scanned.scan)
    due = now() + 0.1
    watchdog.expect(now() + 3600)
    watchdog.expect(due)
    watchdog.expect(now() + 3600)
    assert scanned.happened.acquire(timeout=30)
    assert scanned.times[0] >= due
    watchdog.stop()
    assert not watchdog.is_running


def test_scans_again_when_told():
    """The deadline that a scan returns is waited for without another call."""
    scanned = Scanned(0.0, 0.0)
    watchdog = Watchdog(scanned.scan)
    watchdog.expect(now())
    for _ in range(3):
        assert scanned.happened.acquire(timeout=30)
    watchdog.stop()
    assert len(scanned.times) == 3


def test_failed_scan_is_logged_and_tried_again(caplog):
    """A scan that raises does not end the watchdog."""
    scanned = Scanned(RuntimeError("no database"))
    watchdog = Watchdog(scanned.scan)
    watchdog.expect(now())
    for _ in range(2):
        assert scanned.happened.acquire(timeout=30)
    watchdog.stop()
    assert "scan failed" in caplog.text


def test_thread_ends_with_its_owner():
    """A watchdog whose store is gone ends by itself."""
    scanned = Scanned()
    watchdog = Watchdog(scanned.scan)
    watchdog.expect(now() + 3600)
    assert watchdog.is_running
    del scanned
    gc.collect()
    end = time.monotonic() + 30
    while watchdog.is_running and time.monotonic() < end:
        time.sleep(0.01)
    assert not watchdog.is_running
