"""What a store measures when it is given a tracker: names, labels, and who is being served.

| metric | labels | what it counts or times |
|---|---|---|
| `agl.store.total`, `.latency` | method, store_pubmeth, status | calls of the store's methods |
| `agl.rollouts.total`, `.duration` | status, mode | rollouts that ended, from creation to end |
| `agl.collections.total`, `.latency` | store_pubmeth, operation, collection, store_privmeth, status | operations on the storage |

Times are in seconds. `status` is `ok` or the name of an exception's class; of a rollout it is how
it ended. `store_pubmeth` is `background` for what no caller asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, Protocol

__all__ = [
    "COLLECTION_LABELS",
    "LATENCY_BUCKETS",
    "METHOD_LABELS",
    "ROLLOUT_LABELS",
    "Tracker",
    "public_method",
    "register_metrics",
]

METHOD_LABELS: Final = ("method", "store_pubmeth", "status")
ROLLOUT_LABELS: Final = ("status", "mode")
COLLECTION_LABELS: Final = (
    "store_pubmeth",
    "operation",
    "collection",
    "store_privmeth",
    "status",
)
LATENCY_BUCKETS: Final = tuple(
    round(base * 10.0**power, 12) for power in range(-6, 3) for base in (1, 1.5, 2, 3, 5)
)[:-1]
"""Upper bounds in seconds, from 1 µs to 300 s."""
_DURATION_BUCKETS: Final = (
    *(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0),
    *(1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0),
)
"""Upper bounds in seconds, from 10 ms to a day."""

public_method: Final[ContextVar[str]] = ContextVar("agl_store_method", default="background")
"""The store's method that the current task is in; only kept while there is a tracker."""


class Tracker(Protocol):
    """The part of a metrics backend that the store uses."""

    def register_counter(self, name: str, label_names: Sequence[str] | None = None) -> None:
        """Announce a counter."""
        ...

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
    ) -> None:
        """Announce a histogram."""
        ...

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: dict[str, str] | None = None
    ) -> None:
        """Add to a counter."""
        ...

    async def observe_histogram(
        self, name: str, value: float, labels: dict[str, str] | None = None
    ) -> None:
        """Add an observation to a histogram."""
        ...


def register_metrics(tracker: Tracker) -> None:
    """Announce everything that a store measures."""
    tracker.register_counter("agl.store.total", METHOD_LABELS)
    tracker.register_histogram("agl.store.latency", METHOD_LABELS, LATENCY_BUCKETS)
    tracker.register_counter("agl.rollouts.total", ROLLOUT_LABELS)
    tracker.register_histogram("agl.rollouts.duration", ROLLOUT_LABELS, _DURATION_BUCKETS)
    tracker.register_counter("agl.collections.total", COLLECTION_LABELS)
    tracker.register_histogram("agl.collections.latency", COLLECTION_LABELS, LATENCY_BUCKETS)
