"""Intervals of time, and which of them enclose which. Pure functions."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "tightest_enclosing"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time, in unix seconds, and whose it is."""

    id: str
    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds."""
        return self.end - self.start


def tightest_enclosing(
    inner: Sequence[Interval], outer: Sequence[Interval]
) -> dict[str, list[str]]:
    """Return, for each inner interval, the outer ones that strictly enclose it, tightest first.

    The cost is that of sorting plus the number of intervals open at the same time.
    """
    by_start = sorted(outer, key=lambda interval: interval.start)
    enclosing: dict[str, list[str]] = {}
    still_open: list[tuple[float, int, Interval]] = []
    position = 0
    for interval in sorted(inner, key=lambda item: item.start):
        while position < len(by_start) and by_start[position].start < interval.start:
            opened = by_start[position]
            heapq.heappush(still_open, (opened.end, position, opened))
            position += 1
        while still_open and still_open[0][0] <= interval.start:
            heapq.heappop(still_open)
        around = [item for _, _, item in still_open if item.end > interval.end]
        around.sort(key=lambda item: item.length)
        enclosing[interval.id] = [item.id for item in around]
    return enclosing
