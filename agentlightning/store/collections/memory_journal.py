"""The event journal in memory: the last events of one store."""

from __future__ import annotations

import marshal
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from agentlightning._internal.record import build
from agentlightning.errors import ConflictError
from agentlightning.store.collections.kinds import EventJournal
from agentlightning.types import StoreEvent

KEPT_EVENTS = 65_536
"""How many events the journal keeps; about 20 MB at most."""

_FIELDS: Final = tuple(StoreEvent.model_fields)
_values: Final = itemgetter(*_FIELDS)
_FORMAT: Final = 2
"""Of `marshal`: without back references, which cost more than they save in so little data."""
_SCALARS: Final = frozenset[type]({str, int, float, bool, type(None)})


_Packed = bytes | tuple[Any, ...]


def _pack(event: dict[str, Any]) -> _Packed:
    """Return an event's values as bytes, or as they are if that could change one of the user's.

    Perf: bytes are nothing that the garbage collector looks through. Kept as they were made,
    events were more than half of its work for a busy store.
    """
    values = _values(event)
    metadata = event["data"].get("metadata")
    # All but `metadata` comes from the store itself, and `marshal` keeps it as it is.
    if metadata and not _SCALARS.issuperset(map(type, metadata.values())):
        return values
    try:
        return marshal.dumps(values, _FORMAT)
    except ValueError:
        return values


def _unpack(packed: _Packed) -> StoreEvent:
    values = marshal.loads(packed) if isinstance(packed, bytes) else packed
    return build(StoreEvent, dict(zip(_FIELDS, values, strict=True)))


class MemoryJournal(EventJournal):
    """The last events, in memory; safe to use from any thread."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._guard = threading.Lock()
        self._events: deque[_Packed] = deque(maxlen=kept)
        self._last = 0

    async def append(self, events: Sequence[StoreEvent]) -> None:
        self.add(events)

    def add(self, events: Sequence[StoreEvent]) -> None:
        """Number events and keep them, at once."""
        with self._guard:
            for event in events:
                self._last += 1
                # Perf: a model's own assignment takes ten times as long.
                fields = vars(event)
                fields["seq"] = self._last
                self._events.append(_pack(fields))

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        with self._guard:
            found = self._read(after, limit)
        return [_unpack(each) for each in found]

    def _read(self, after: int, limit: int) -> list[_Packed]:
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
