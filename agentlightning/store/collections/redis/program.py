"""What a block wants done at its commit, and the arguments of the script that does it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from pydantic import BaseModel

from agentlightning.store.collections.changes import REPLY_SECONDS, Reply
from agentlightning.store.collections.redis.layout import Table
from agentlightning.types import StoreEvent

KEPT_EVENTS: Final = 200_000
"""How many events the journal keeps at least."""
COMMIT_SECONDS: Final = 60
"""How long a commit is known again; longer than anybody tries to send it."""

Check = tuple[str, ...]
Indexes = Mapping[str, float | int | None]
_UNPLACED: Final = 2**60
"""Ordinals beyond all that the server gives."""


@dataclass(slots=True)
class _Write:
    """One change of one record."""

    letter: str
    ordinal: str
    before: Indexes
    after: Indexes


@dataclass(slots=True)
class Program:
    """Checks and writes, gathered."""

    checks: dict[Check, str | None] = field(default_factory=dict[Check, str | None])
    records: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    """What will be stored under a table's key; None removes it."""
    latest: dict[str, str] = field(default_factory=dict[str, str])
    """Each rollout's latest attempt as the server has it."""
    counters: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Numbers to set; None removes one."""
    raised: dict[str, int] = field(default_factory=dict[str, int])
    """Numbers to raise, unless they are higher."""
    emptied: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Tables and owners all of whose records are to be removed."""
    taken: list[str] = field(default_factory=list[str])
    """Entries to take out of the queue."""
    appended: list[str] = field(default_factory=list[str])
    """Ids to put into the queue."""
    queued: dict[str, None] = field(default_factory=dict[str, None])
    """Ids to put into the queue unless they are there."""
    events: list[StoreEvent] = field(default_factory=list[StoreEvent])
    reply: Reply | None = None
    _writes: dict[tuple[str, str], _Write] = field(default_factory=dict[tuple[str, str], _Write])
    _places: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    _released: list[str] = field(default_factory=list[str])

    def put(
        self, table: Table[Any], key: str, record: BaseModel, ordinal: str, before: Indexes | None
    ) -> None:
        """Store a record; `before` says where the present one is indexed."""
        slot = (table.name, key)
        self._places.setdefault(slot, _UNPLACED + len(self._places))
        self.records[slot] = record
        self._writes[slot] = _Write("W", ordinal, before or {}, table.indexes(record))

    def remove(self, name: str, key: str, ordinal: str, before: Indexes) -> None:
        """Remove a stored record."""
        self.records[name, key] = None
        self._writes[name, key] = _Write("D", ordinal, before, {})

    def forget(self, name: str, key: str) -> None:
        """Undo the insertion of a record."""
        self.records[name, key] = None
        self._writes.pop((name, key), None)
        self._places.pop((name, key), None)

    def place(self, slot: tuple[str, str]) -> int:
        """Return the provisional ordinal of a record that is not stored yet."""
        return self._places[slot]

    def release(self, rollout_id: str) -> None:
        """End a reservation."""
        self._released.append(rollout_id)

    def is_empty(self) -> bool:
        """Return whether there is nothing to write."""
        return not (
            self._writes
            or self.counters
            or self.raised
            or self.emptied
            or self.taken
            or self.appended
            or self.queued
            or self.events
            or self.reply
        )

    def build(self, encode: Callable[[BaseModel], str], writer: str) -> bytes:
        """Return what the commit script carries out, as JSON."""
        parts: list[str | int] = []
        for check, expected in self.checks.items():
            parts += check
            if expected is not None:
                parts.append(expected)
        parts.append("GO")
        for name in dict.fromkeys(name for name, _ in self._writes):
            parts += ("B", name)
        for (name, key), write in self._writes.items():
            parts += self._record(name, key, write, encode)
        for name, owner in self.emptied:
            parts += ("B", name, "O", name, owner)
        parts += self._numbers()
        parts += self._line()
        for event in self.events:
            parts += ("S", encode(event), writer)
        if self.reply is not None:
            refs = json.dumps([self.reply.time, self.reply.refs])
            parts += ("P", self.reply.key, refs, int(REPLY_SECONDS))
        try:
            return orjson.dumps(parts)
        except TypeError:
            # An id with odd code points, which goes through the server as the bytes it is.
            return json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def _record(
        self, name: str, key: str, write: _Write, encode: Callable[[BaseModel], str]
    ) -> list[str | int]:
        gone = [index for index in write.before if index not in write.after]
        if write.letter == "D":
            return ["D", name, key, write.ordinal, len(gone), *gone]
        record = self.records[name, key]
        new = [
            (index, "" if score is None else repr(score))
            for index, score in write.after.items()
            if index not in write.before or write.before[index] != score
        ]
        placed = itertools.chain.from_iterable(new)
        return [
            "W", name, key, encode(record), write.ordinal, len(gone), *gone, len(new), *placed,
        ]  # fmt: skip

    def _numbers(self) -> list[str | int]:
        parts: list[str | int] = []
        for key, value in self.counters.items():
            parts += ("X", key) if value is None else ("C", key, str(value))
        for key, value in self.raised.items():
            parts += ("M", key, str(value))
        return parts

    def _line(self) -> list[str | int]:
        parts: list[str | int] = []
        if self.taken or self.appended or self.queued:
            parts += ("B", "queue")
        for taken in self.taken:
            parts += ("U", taken)
        for rollout_id in self.appended:
            parts += ("E", rollout_id, "0")
        for rollout_id in self.queued:
            parts += ("E", rollout_id, "1")
        for rollout_id in self._released:
            parts += ("H", rollout_id)
        return parts
