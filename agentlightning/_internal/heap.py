"""Giving memory that is free back to the system. Nothing here is needed for correctness.

The C library keeps what was freed, in an arena for each few threads. Where threads take turns with
blocks of ever other sizes, what is kept grows for hours and is of use to nobody.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Final

from agentlightning._internal.clock import monotonic

__all__ = ["HeapKeeper", "release_free_memory"]

_EVERY_SECONDS: Final = 60.0


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's function; other C libraries have none."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes, function.restype = [ctypes.c_size_t], ctypes.c_int
    return function


def release_free_memory() -> bool:
    """Give the C library's free pages back, and return whether there were any.

    Takes milliseconds for each 100 MiB. Does nothing where the C library is not glibc.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


class HeapKeeper:
    """Gives free memory back now and then; for one thread."""

    def __init__(self, every_seconds: float = _EVERY_SECONDS) -> None:
        """Begin to count the time.

        Args:
            every_seconds: How long to wait between two times. The pages that are needed again
                must be asked for again.
        """
        self._every_seconds = every_seconds
        self._last = monotonic()

    def look(self) -> bool:
        """Give free memory back if it is time for it, and return whether it was."""
        if monotonic() - self._last < self._every_seconds:
            return False
        release_free_memory()
        self._last = monotonic()
        return True
