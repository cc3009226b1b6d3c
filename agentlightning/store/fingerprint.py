"""Hashes of a store's records, by which two stores are found to hold the same.

A record is its text. What belongs to a rollout is counted in order within that rollout: stores
list attempts and spans by rollout or by time, and both are the order of insertion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["Fingerprint", "Sighting"]

_GROUPS: Final = {
    "attempts": "rollout_id",
    "spans": "rollout_id",
    "sequence_ids": "rollout_id",
    "resource_versions": "resources_id",
}
_BITS: Final = 128


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=_BITS // 8).digest()
    return int.from_bytes(digest, "big")


class Fingerprint:
    """One number for any amount of records of a kind: their content and their order.

    It is a sum of hashes, so groups of records may come in any order. Takes memory for each
    rollout, not for each span.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0
        self._places: dict[str, int] = {}

    def add(self, kind: str, records: Sequence[str]) -> None:
        """Take more records, in order."""
        for text in records:
            group = _group(kind, text)
            place = self._places.get(group, 0)
            self._places[group] = place + 1
            self._sum += _hash(f"{group}\n{place}\n{text}")
        self._sum %= 1 << _BITS
        self.count += len(records)

    def hex(self) -> str:
        """Return the number as text."""
        return f"{self._sum:032x}"

    def fresh(self) -> Fingerprint:
        """Return an empty one of this kind."""
        return Fingerprint()

    def difference(self, found: Fingerprint | Sighting) -> str | None:
        """Say how what was found differs from this; None when it does not."""
        if found.count != self.count:
            return f"{found.count} instead of {self.count}"
        if found.hex() != self.hex():
            return f"all {self.count} are there, but their content or order differs"
        return None


class Sighting:
    """The records of a kind as a set, for a store that may hold others besides; order is no matter.

    Takes about 100 bytes for each record.
    """

    def __init__(self) -> None:
        self.count = 0
        self.hashes: set[int] = set()

    def add(self, kind: str, records: Sequence[str]) -> None:
        """Take more records."""
        del kind
        self.hashes.update(map(_hash, records))
        self.count += len(records)

    def hex(self) -> str:
        """Return a number for the set, as text."""
        return f"{sum(self.hashes) % (1 << _BITS):032x}"

    def fresh(self) -> Sighting:
        """Return an empty one of this kind."""
        return Sighting()

    def difference(self, found: Fingerprint | Sighting) -> str | None:
        """Say how many of these were not found; None when all were."""
        assert isinstance(found, Sighting)
        missing = len(self.hashes - found.hashes)
        return f"{missing} of {self.count} are missing or differ" if missing else None


def _group(kind: str, text: str) -> str:
    """Return the group in which a record has its place."""
    field = _GROUPS.get(kind)
    if field is None:
        return ""
    # Perf: the id is what a record begins with; reading a whole span for it takes ten times as long.
    start = f'{{"{field}":"'
    if text.startswith(start):
        end = text.index('"', len(start))
        found = text[len(start) : end]
        if "\\" not in found:
            return found
    fields: dict[str, Any] = json.loads(text)
    return fields[field]
