"""The one clock."""

import time

from agentlightning._internal import clock


def test_now_is_unix_seconds():
    """`now` is wall time."""
    before = time.time()
    assert before <= clock.now() <= time.time()


def test_monotonic_never_goes_back():
    """Differences of `monotonic` are never negative."""
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)
