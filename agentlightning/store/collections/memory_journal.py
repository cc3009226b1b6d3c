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

_FIELDS: Final = tuple(name for name in StoreEvent.model_fields if name not in {"seq", "data"})
_values: Final = itemgetter(*_FIELDS)
_SCALARS: Final = frozenset[type]({str, int, float, bool, type(None)})


def _rested(data: dict[str, Any]) -> bytes | dict[str, Any]:
    """Return an event's data as bytes, unless that could change a value of the user's.

    Perf: nothing that the garbage collector has to look through is left of most events. Kept as
    they were made, they were more than half of its work on a busy store.
    """
    metadata = data.get("metadata")
    # What is beside `metadata` comes from the store, and `marshal` keeps it as it is.
    if metadata and not _SCALARS.issuperset(map(type, metadata.values())):
        return data
    try:
        return marshal.dumps(data)
    except ValueError:
        return data


class MemoryJournal(EventJournal):
    """The last events, in memory; safe to use from any thread."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._guard = threading.Lock()
        # The values of an event's `_FIELDS`, and its data.
        self._events: deque[tuple[Any, ...]] = deque(maxlen=kept)
        self._last = 0

    async def append(self, events: Sequence[StoreEvent]) -> None:
        self.add(events)

    def add(self, events: Sequence[StoreEvent]) -> None:
        """Number events and keep them, at once."""
        with self._guard:
            first = self._last + 1
            for seq, event in enumerate(events, first):
                # Perf: a model's own assignment takes ten times as long.
                fields = vars(event)
                fields["seq"] = seq
                self._events.append((*_values(fields), _rested(fields["data"])))
            self._last += len(events)

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        with self._guard:
            found = self._read(after, limit)
        return [_event(seq, values) for seq, values in enumerate(found, after + 1)]

    def _read(self, after: int, limit: int) -> list[tuple[Any, ...]]:
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


def _event(seq: int, values: tuple[Any, ...]) -> StoreEvent:
    data = values[-1]
    fields = {
        "seq": seq,
        **dict(zip(_FIELDS, values, strict=False)),
        "data": marshal.loads(data) if type(data) is bytes else data,
    }
    return build(StoreEvent, fields)
