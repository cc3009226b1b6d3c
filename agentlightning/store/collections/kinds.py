"""The kinds of storage that a backend provides: collections, queues, counters and a journal.

Derive from these classes to keep a store's data somewhere else. Methods are coroutines; within
an atomic block they must be awaited one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from agentlightning.errors import ConflictError, InvalidRequestError
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions, StoreEvent

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
K = TypeVar("K")
V = TypeVar("V")

_CURSOR_DIGITS = 18


class DuplicatedPrimaryKeyError(ConflictError):
    """An insert met a record that has the same primary key."""

    code = "conflict"


def offset_after(cursor: str | None) -> int:
    """Return the number that a cursor is.

    Raises:
        InvalidRequestError: It is none.
    """
    if cursor is None:
        return 0
    # Ten digits or so are in use; more would not fit into a database's integer.
    if not cursor.isdecimal() or not cursor.isascii() or len(cursor) > _CURSOR_DIGITS:
        raise InvalidRequestError(f"{cursor!r} is no cursor; give one as it was returned.")
    return int(cursor)


@dataclass(frozen=True, slots=True)
class BackendFault:
    """One thing that is wrong with what a backend keeps beside the records; no collection shows
    it.
    """

    code: str
    subject: tuple[str, ...]
    """The ids of the record that it is about, if it is about one."""
    text: str
    """What is wrong, and what follows from it."""
    serious: bool
    repairable: bool = False
    """`LightningCollections.mend` mends it, and loses nothing."""


class Collection(Generic[M]):
    """Records of one type, told apart by a primary key and kept in order of insertion."""

    def primary_keys(self) -> Sequence[str]:
        """Return the fields that identify a record."""
        raise NotImplementedError

    def item_type(self) -> type[M]:
        """Return the records' class."""
        raise NotImplementedError

    async def size(self) -> int:
        """Return how many records there are."""
        raise NotImplementedError

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        """Return a page of the records that match, in order of insertion unless sorted."""
        raise NotImplementedError

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        """Return the first record that matches, or None."""
        raise NotImplementedError

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, M]]:
        """Return the next records in order of insertion, each with a cursor that continues there.

        This one passes over what came before; backends with an order of insertion to search by
        need not.

        Args:
            after: The cursor of the last record that was seen; None begins.
            limit: How many at most.
        """
        start = offset_after(after)
        found = await self.query(limit=limit, offset=start)
        return [(str(start + place), record) for place, record in enumerate(found, 1)]

    async def insert(self, items: Sequence[M]) -> None:
        """Add records, all or none.

        Raises:
            DuplicatedPrimaryKeyError: One of them is there already, or is given twice.
        """
        raise NotImplementedError

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        """Replace records, or only some fields of them, and return them as stored.

        Raises:
            NotFoundError: One of them is not there.
        """
        raise NotImplementedError

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        """Insert records or update those that are there, and return them as stored.

        Args:
            items: Records with complete primary keys.
            update_fields: Fields to take over into an existing record; None for all of them, and
                an empty list leaves it as it is.
        """
        raise NotImplementedError

    async def delete(self, items: Sequence[M]) -> None:
        """Remove records, by their primary keys.

        Raises:
            NotFoundError: One of them is not there.
        """
        raise NotImplementedError


class Queue(Generic[T]):
    """Values in line, first in, first out."""

    def item_type(self) -> type[T]:
        """Return the values' class."""
        raise NotImplementedError

    async def has(self, item: T) -> bool:
        """Return whether a value is in line."""
        raise NotImplementedError

    async def enqueue(self, items: Sequence[T]) -> Sequence[T]:
        """Append values and return them."""
        raise NotImplementedError

    async def dequeue(self, limit: int = 1) -> Sequence[T]:
        """Remove and return up to `limit` values from the front."""
        raise NotImplementedError

    async def peek(self, limit: int = 1) -> Sequence[T]:
        """Return up to `limit` values from the front and leave them there."""
        raise NotImplementedError

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, T]]:
        """Return the next values in line, each with a cursor that continues there, and leave them.

        This one passes over what came before; see `Collection.scan`.
        """
        start = offset_after(after)
        found = (await self.peek(start + limit))[start:]
        return [(str(start + place), value) for place, value in enumerate(found, 1)]

    async def size(self) -> int:
        """Return how many values are in line."""
        raise NotImplementedError


class KeyValue(Generic[K, V]):
    """Values by key, with atomic counters."""

    async def has(self, key: K) -> bool:
        """Return whether a key has a value."""
        raise NotImplementedError

    async def get(self, key: K, default: V | None = None) -> V | None:
        """Return a key's value, or the default."""
        raise NotImplementedError

    async def set(self, key: K, value: V) -> None:
        """Give a key a value."""
        raise NotImplementedError

    async def inc(self, key: K, amount: V) -> V:
        """Add to a key's number, which starts at 0, and return the sum.

        Raises:
            TypeError: The amount or the present value is not a number.
        """
        raise NotImplementedError

    async def chmax(self, key: K, value: V) -> V:
        """Raise a key's number to at least `value`, and return what it is then.

        Raises:
            TypeError: The value or the present one is not a number.
        """
        raise NotImplementedError

    async def pop(self, key: K, default: V | None = None) -> V | None:
        """Remove a key and return its value, or the default."""
        raise NotImplementedError

    async def size(self) -> int:
        """Return how many keys there are."""
        raise NotImplementedError


class EventJournal:
    """The store's events in order, kept for a while."""

    async def append(self, events: Sequence[StoreEvent]) -> None:
        """Give each event the next `seq` and keep it; part of the atomic block, if in one."""
        raise NotImplementedError

    async def read(self, after: int, limit: int = 1000) -> Sequence[StoreEvent]:
        """Return kept events with `seq` beyond `after`, in order.

        Raises:
            ConflictError: Events directly after `after` are no longer kept.
        """
        raise NotImplementedError

    async def last_seq(self) -> int:
        """Return the newest event's `seq`; 0 when there was none."""
        raise NotImplementedError
