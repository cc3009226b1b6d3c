"""The event journal in memory: the last events of one store."""

from __future__ import annotations

import marshal
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from agentlightning.errors import ConflictError
from agentlightning.store.collections.changes import Told, store_event
from agentlightning.store.collections.kinds import EventJournal
from agentlightning.types import StoreEvent

KEPT_EVENTS = 65_536
"""How many events the journal keeps; about 20 MB at most."""

_FORMAT: Final = 2
"""Of `marshal`: without back references, which cost more than they save in so little data."""
_SCALARS: Final = frozenset[type]({str, int, float, bool, type(None)})
_values: Final = attrgetter(*(name for name in StoreEvent.model_fields if name != "seq"))


def _pack(values: Told) -> bytes | Told:
    """Return an event's values as bytes, or as they are if that could change one of the user's.

    Perf: bytes are nothing that the garbage collector looks through. Kept as they were made,
    events were more than half of its work for a busy store.
    """
    metadata = values[-1].get("metadata")
    # All but `metadata` comes from the store itself, and `marshal` keeps it as it is.
    if metadata and not _SCALARS.issuperset(map(type, metadata.values())):
        return values
    try:
        return marshal.dumps(values, _FORMAT)
    except ValueError:
        return values


class MemoryJournal(EventJournal):
    """The last events, in memory; safe to use from any thread."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._guard = threading.Lock()
        self._events: deque[bytes | Told] = deque(maxlen=kept)
        self._last = 0

    async def append(self, events: Sequence[StoreEvent]) -> None:
        last = self.add([_values(event) for event in events])
        for seq, event in enumerate(events, last - len(events) + 1):
            event.seq = seq

    def add(self, told: Sequence[Told]) -> int:
        """Number events and keep them, at once; return the last one's number."""
        with self._guard:
            self._events.extend(map(_pack, told))
            self._last += len(told)
            return self._last

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        with self._guard:
            found = self._read(after, limit)
        return [
            store_event(seq, marshal.loads(each) if isinstance(each, bytes) else each)
            for seq, each in enumerate(found, after + 1)
        ]

    def _read(self, after: int, limit: int) -> list[bytes | Told]:
        oldest = self._last - len(self._events)
        if after < oldest:
            raise ConflictError(
                f"Events {after + 1} to {oldest} are no longer kept; "
                "read the records anew and subscribe from now on."
            )
        start = after - oldest
        if start < len(self._events) - start:
            return list(islice(self._events, start, start + limit))
        # Perf: a deque is slow in its middle, so recent events are read from its end.
        tail = list(islice(reversed(self._events), max(len(self._events) - start, 0)))
        return tail[::-1][:limit]

    async def last_seq(self) -> int:
        return self._last
