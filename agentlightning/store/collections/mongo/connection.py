"""The client and what it is connected to: opened at first use, on an event loop of its own."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.errors import (
    ConfigurationError as BadOptionsError,
)
from pymongo.write_concern import WriteConcern

from agentlightning._internal.ids import generate_id
from agentlightning._internal.io_loop import IoLoop
from agentlightning.errors import (
    ConfigurationError,
    InvalidRequestError,
    StoreError,
    StoreUnavailableError,
)
from agentlightning.store.collections.kinds import DuplicatedPrimaryKeyError
from agentlightning.store.collections.mongo.layout import (
    PARTITIONS,
    Database,
    Document,
    prepare,
)
from agentlightning.store.collections.mongo.sessions import Sessions

R = TypeVar("R")

SELECTION_MILLISECONDS: Final = 5_000
"""How long a call looks for a server, unless the address or the options say otherwise."""
_SOCKET_MILLISECONDS: Final = 60_000
_PATIENCE_SECONDS: Final = 1.0
_REFUSED: Final = frozenset({13, 18, 8000})
"""The server's codes for credentials that it does not take."""
_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""The server's codes for documents and index entries that are larger than it takes."""
_TRANSIENT: Final = ("TransientTransactionError", "UnknownTransactionCommitResult")


def _reason(error: OperationFailure) -> tuple[int | None, str]:
    """Return the server's code and words, without the documents that the error holds."""
    if isinstance(error, BulkWriteError) and error.details.get("writeErrors"):
        first = error.details["writeErrors"][0]
        return first["code"], first["errmsg"]
    return error.code, str((error.details or {}).get("errmsg", error))


@contextmanager
def driver_errors() -> Generator[None]:
    """Raise the driver's errors as this package's."""
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout, WaitQueueTimeoutError) as error:
        raise StoreUnavailableError(
            f"MongoDB did not answer: {error}. Check the address, and that the server runs."
        ) from error
    except (BadOptionsError, InvalidURI) as error:
        raise ConfigurationError(f"MongoDB cannot be used as asked: {error}") from error
    except DuplicateKeyError as error:
        raise DuplicatedPrimaryKeyError(
            "One of the records is there already; update it instead."
        ) from error
    except (DocumentTooLarge, BSONError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidRequestError(
            f"MongoDB cannot store this: {error}; a record may take 16 MB, ids must be text."
        ) from error
    except OperationFailure as error:
        code, text = _reason(error)
        if code in _TOO_LARGE:
            raise InvalidRequestError(f"MongoDB cannot store this: {text}.") from error
        if code in _REFUSED:
            raise ConfigurationError(f"MongoDB refuses these credentials: {text}") from error
        if any(error.has_error_label(label) for label in _TRANSIENT):
            raise StoreUnavailableError(f"MongoDB is too busy: {text}; try again.") from error
        raise StoreError(f"MongoDB refused: {text}") from error
    except PyMongoError as error:
        raise StoreError(f"MongoDB failed: {error}") from error


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection in use.

    Attributes:
        client: The driver's client.
        database: Where all collections are; writes wait for a majority.
        partition: Which documents of it are ours.
        has_transactions: Whether there is a replica set or a router, not a single server.
        sessions: What transactions take place in.
    """

    client: AsyncMongoClient[Document]
    database: Database
    partition: str
    has_transactions: bool
    sessions: Sessions


def _options(uri: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the client's options; none of the defaults overrides what the address says."""
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": SELECTION_MILLISECONDS,
        "socketTimeoutMS": _SOCKET_MILLISECONDS,
        "appname": "agentlightning",
        # One connection for watching each server instead of three; a call that fails looks anew
        # at once. The driver also leaks a socket when it is closed while it opens the others.
        "serverMonitoringMode": "poll",
    }
    said = uri.partition("?")[2].lower()
    chosen = {name.lower() for name in given or {}}
    kept = {
        name: value
        for name, value in options.items()
        if f"{name.lower()}=" not in said and name.lower() not in chosen
    }
    return {**kept, **(given or {})}


class _Client:
    """The client of one loop, apart from its owner so that a finalizer can close it."""

    def __init__(self) -> None:
        self.opened: Opened | None = None

    async def close(self) -> None:
        opened, self.opened = self.opened, None
        if opened is not None:
            await opened.sessions.close()
            await opened.client.close()


async def _close(io: IoLoop, held: _Client) -> None:
    try:
        await held.close()
    finally:
        io.close()


def _abandon(io: IoLoop, held: _Client) -> None:
    """Close what nobody closed; called in whatever thread finds out."""
    if held.opened is None:
        io.close()
        return
    try:
        io.spawn(lambda: _close(io, held))
    except StoreError:
        # In a process that was forked off: what is open belongs to the parent.
        held.opened = None


async def _patiently(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Do work that is cancelled only if it does not end soon by itself: the driver, cancelled while
    it opens a connection, forgets to close the socket.
    """
    task = asyncio.get_running_loop().create_task(work())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait([task], timeout=_PATIENCE_SECONDS)
        finally:
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            raise
        return task.result()


class Connection:
    """One partition of one database.

    Args:
        uri: `mongodb://...`, as pymongo takes it.
        database: The database's name.
        partition: The partition's name.
        options: Options for pymongo's client, over those of the address.
    """

    def __init__(
        self, uri: str, database: str, partition: str, options: Mapping[str, Any] | None
    ) -> None:
        self.partition = partition
        self.writer = generate_id(16)
        """Who we are, among all stores on the database."""
        self._uri = uri
        self._database = database
        self._options = _options(uri, options)
        self._held = _Client()
        self._opening: asyncio.Lock | None = None
        self.io = IoLoop("agentlightning-mongo")
        self.on_open: Callable[[Opened], Coroutine[Any, Any, None]] | None = None
        """Called once when connected, before anything else."""
        self._finalize = weakref.finalize(self, _abandon, self.io, self._held)

    async def run(self, work: Callable[[Opened], Coroutine[Any, Any, R]]) -> R:
        """Do work on the loop, connected.

        Raises:
            StoreUnavailableError: The server did not answer.
            ConfigurationError: The address, the credentials or the database cannot work.
        """

        async def connected() -> R:
            with driver_errors():
                return await work(await self.opened())

        if self.io.owns_current_thread():
            return await connected()
        return await self.io.run(lambda: _patiently(connected))

    async def opened(self) -> Opened:
        """Return the connection, made at the first call; only on the loop."""
        if self._held.opened is not None:
            return self._held.opened
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._held.opened is None:
                self._held.opened = await self._open()
            return self._held.opened

    def _new_client(self) -> AsyncMongoClient[Document]:
        try:
            return AsyncMongoClient(self._uri, **self._options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"MongoDB cannot be used as asked: {error}") from error

    async def _open(self) -> Opened:
        client = self._new_client()
        try:
            hello = await client.admin.command("hello")
            database = client.get_database(self._database, write_concern=WriteConcern("majority"))
            opened = Opened(
                client=client,
                database=database,
                partition=self.partition,
                sessions=Sessions(client, database, self.partition, self.writer),
                has_transactions="setName" in hello or hello.get("msg") == "isdbgrid",
            )
            await prepare(opened.database)
            await opened.database[PARTITIONS].update_one(
                {"_id": self.partition},
                {"$setOnInsert": {"seq": 0, "o": 0, "beat": 0, "holder": None}},
                upsert=True,
            )
            if self.on_open is not None:
                await self.on_open(opened)
        except BaseException:
            await client.close()
            raise
        return opened

    async def close(self) -> None:
        """Close the client and end the loop; idempotent."""
        if self._held.opened is not None:
            await self.io.run(self._held.close)
        self._finalize.detach()
        self.io.close()
