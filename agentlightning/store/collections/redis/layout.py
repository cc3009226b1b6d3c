"""Which keys hold what, and how a record is written into them.

Every key begins with the store's prefix in braces, so that a cluster would put all of them on one
node. A table is a hash of records by primary key, and sorted sets that index them:

```
{p}:meta                     counters: layout, commit, ordinal, seq, rev:<table>
{p}:<table>                  primary key -> "<version>:<ordinal>:<json>"
{p}:<table>:order            entries by ordinal
{p}:<table>:of:<owner>       an owner's entries, by sequence id or version
{p}:<table>:is:<value>       the entries with this status, by ordinal
{p}:<table>:by:<field>       entries by a time
{p}:queue, :queued, :held    entries by ordinal; id -> ordinals; id -> when its reservation ends
{p}:counters                 key -> number
{p}:events                   a stream; the entry of event n has the id n-0
{p}:reply:<key>, :done:<id>  answers, and commits, that may be asked for again
```

An entry of a sorted set is the ordinal in 16 digits and the primary key, so that records with
equal scores are in order of insertion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from agentlightning.errors import InvalidRequestError
from agentlightning.store.collections.codec import decode
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

M = TypeVar("M", bound=BaseModel)

LAYOUT_VERSION: Final = 1
"""Raise it with every change that older code could not read, and add the migration."""

_DIGITS: Final = 16
_LARGEST: Final = 10**300


def text(raw: bytes) -> str:
    """Return a key or an id as it was given, odd code points included."""
    return raw.decode("utf-8", "surrogatepass")


def entry(ordinal: int, key: str) -> str:
    """Return what stands for a record in a sorted set."""
    return f"{ordinal:0{_DIGITS}d}{key}"


def split_entry(raw: bytes) -> tuple[int, str]:
    """Return an entry's ordinal and key."""
    return int(raw[:_DIGITS]), text(raw[_DIGITS:])


@dataclass(slots=True)
class Stored(Generic[M]):
    """A record as it was read."""

    version: int
    """The commit that wrote it."""
    ordinal: int
    """Its place in order of insertion."""
    record: M


@dataclass(frozen=True, slots=True)
class Table(Generic[M]):
    """How one kind of record is kept."""

    name: str
    model: type[M]
    keys: tuple[str, ...]
    """The fields of the primary key; the first of several is the owner."""
    rank: str | None = None
    """The number by which an owner's records are in order."""
    status: str | None = None
    """A text by which records are found."""
    times: tuple[str, ...] = ()
    """Further numbers by which all records are in order."""

    def key(self, record: M) -> str:
        """Return a record's primary key."""
        return self.join([getattr(record, field) for field in self.keys])

    def join(self, values: Sequence[Any]) -> str:
        """Return the primary key of these values; different values never share one."""
        texts = [str(value) for value in values]
        return "".join([*(f"{len(part)}:" for part in texts[:-1]), *texts])

    def owner_index(self, owner: object) -> str:
        """Return the index of an owner's records."""
        return f"{self.name}:of:{owner}"

    def status_index(self, status: object) -> str:
        """Return the index of the records with a status."""
        return f"{self.name}:is:{status}"

    @property
    def order_index(self) -> str:
        """The index of all records in order of insertion."""
        return f"{self.name}:order"

    def indexes(self, record: M) -> dict[str, float | int | None]:
        """Return where a record is indexed, and by which number; None means its ordinal.

        Raises:
            InvalidRequestError: A number has no order.
        """
        found: dict[str, float | int | None] = {self.order_index: None}
        if self.rank is not None:
            owner = self.owner_index(getattr(record, self.keys[0]))
            found[owner] = self._number(record, self.rank)
        if self.status is not None:
            found[self.status_index(getattr(record, self.status))] = None
        for field in self.times:
            found[f"{self.name}:by:{field}"] = self._number(record, field)
        return found

    def _number(self, record: M, field: str) -> float | int:
        number = getattr(record, field)
        if abs(number) > _LARGEST:
            # Redis ranks by floats; an integer beyond them comes after all others.
            return math.inf if number > 0 else -math.inf
        if math.isnan(number):
            raise InvalidRequestError(f"{self.model.__name__}.{field} must be a number, not NaN.")
        return number

    def parse(self, raw: bytes) -> Stored[M]:
        """Return the record that a hash holds."""
        version, ordinal, payload = raw.split(b":", 2)
        return Stored(int(version), int(ordinal), decode(self.model, payload.decode()))


ROLLOUTS: Final = Table(
    "rollouts", Rollout, ("rollout_id",), status="status", times=("start_time",)
)
ATTEMPTS: Final = Table("attempts", Attempt, ("rollout_id", "attempt_id"), rank="sequence_id")
SPANS: Final = Table("spans", Span, ("rollout_id", "attempt_id", "span_id"), rank="sequence_id")
RESOURCES: Final = Table("resources", ResourcesUpdate, ("resources_id",), times=("update_time",))
VERSIONS: Final = Table(
    "resource_versions", ResourcesUpdate, ("resources_id", "version"), rank="version"
)
WORKERS: Final = Table("workers", Worker, ("worker_id",))

TABLES: Final[Mapping[str, Table[Any]]] = {
    table.name: table for table in (ROLLOUTS, ATTEMPTS, SPANS, RESOURCES, VERSIONS, WORKERS)
}
