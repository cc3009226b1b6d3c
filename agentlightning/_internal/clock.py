"""The clock: the one place that reads wall time, so that every timestamp has one meaning."""

import time


def now() -> float:
    """Return the current time in unix seconds."""
    return time.time()


def monotonic() -> float:
    """Return seconds on a clock that never goes back; only differences mean anything."""
    return time.monotonic()
