"""One step at work: what it has read, and which transaction it is in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection

from agentlightning.errors import StoreError
from agentlightning.store.collections.mongo.connection import Opened
from agentlightning.store.collections.mongo.layout import (
    PARTITION,
    PARTITIONS,
    Document,
)

if TYPE_CHECKING:
    from agentlightning.store.collections.mongo.lock import Hold

R = TypeVar("R")
RecordKey = tuple[str, tuple[Any, ...]]
"""A collection, and the values of a record's key."""


class StaleReadError(Exception):
    """What a step had read was changed before it could write, so it has to run again.

    Args:
        duplicate: A record that it wanted to add is there.
    """

    def __init__(self, *, duplicate: bool = False) -> None:
        super().__init__("a record changed since it was read")
        self.duplicate = duplicate


class WritesDirectlyError(Exception):
    """A step writes before its end, so it has to run again in a transaction of its own."""


@dataclass(slots=True)
class Block:
    """A step's surroundings.

    Attributes:
        opened: The connection.
        session: The transaction that everything is part of, if there is one.
        direct: Writes happen at once; otherwise they are gathered, and checked at the end.
        seen: The versions of the records that it has read; None where there was none.
        held: Those of them that nobody may have changed when it ends, even if it does not.
        removed: Rollouts to remove when it ends, and whether only their spans go.
        lock: The partition's lock, where there are no transactions.
        stack: What is left when it ends.
        overtaken: How often the step has run in vain.
        given: What it was given from the queue.
        claims: No other step of this process looks at the queue.
    """

    opened: Opened
    session: AsyncClientSession | None = None
    direct: bool = True
    seen: dict[RecordKey, int | None] = field(default_factory=dict[RecordKey, "int | None"])
    held: set[RecordKey] = field(default_factory=set[RecordKey])
    removed: dict[str, bool] = field(default_factory=dict[str, bool])
    lock: Hold | None = None
    stack: AsyncExitStack | None = None
    overtaken: int = 0
    given: set[str] = field(default_factory=set[str])
    claims: bool = False

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return one of the database's collections."""
        return self.opened.database[name]

    def mine(self, **fields: Any) -> Document:
        """Return a query for documents of this partition."""
        return {PARTITION: self.opened.partition, **fields}

    def note(self, name: str, key: tuple[Any, ...], version: int | None) -> None:
        """Remember which version of a record was read first."""
        self.seen.setdefault((name, key), version)

    def hold(self, name: str, key: tuple[Any, ...]) -> None:
        """Let nobody change a record that was read, if it is there."""
        if self.seen.get((name, key)) is not None:
            self.held.add((name, key))

    async def advance(self, counter: str, count: int) -> int:
        """Add to one of the partition's counters, `seq` for events and `o` for the order of
        insertion, and return the first of the new numbers.
        """
        after = await self.collection(PARTITIONS).find_one_and_update(
            {"_id": self.opened.partition},
            {"$inc": {counter: count}},
            session=self.session,
            return_document=ReturnDocument.AFTER,
        )
        if after is None:
            raise StoreError(f"Partition {self.opened.partition} was removed; open it anew.")
        return after[counter] - count + 1


class Runner(Protocol):
    """Where a collection's operations run: in the block at hand, or in one of their own."""

    def __call__(self, work: Callable[[Block], Awaitable[R]], *, write: bool) -> Awaitable[R]:
        """Do the work and return its result."""
        ...
