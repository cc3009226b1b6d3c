"""The store in a SQLite file: it survives the process, however that ends.

What a call has returned is in the file's write-ahead log: a killed process loses nothing of it.
A power cut may lose the last moments, never the file, unless the store is opened with
`synchronous="full"`: then a call returns when the disk has what it wrote.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, cast, get_args
from urllib.parse import parse_qsl

from agentlightning._internal.clock import now
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections.sql.migration import prepare
from agentlightning.store.collections.sql.sqlite_connection import SqliteConnection, Synchronous
from agentlightning.store.collections.sql.sqlite_database import SqliteCollections

__all__ = ["SQLiteLightningStore", "SQLiteStore"]

_PREFIX: Final = "sqlite:///"


def _path_and_options(database: str | Path) -> tuple[Path, dict[str, str]]:
    """Return the file that a path or a `sqlite:///` URL names, and the URL's options."""
    text = str(database)
    if "://" in text and not text.startswith(_PREFIX):
        raise ConfigurationError(
            f"{text!r} is no SQLite URL; write sqlite:///relative/file.db or "
            "sqlite:////absolute/file.db."
        )
    path, options = text, ""
    if text.startswith(_PREFIX):
        path, _, options = text.removeprefix(_PREFIX).partition("?")
    if path in {"", ":memory:"}:
        raise ConfigurationError(
            "A SQLite store needs a file; for a store in memory use InMemoryLightningStore."
        )
    return Path(path).expanduser(), dict(parse_qsl(options, keep_blank_values=True))


def _synchronous(given: str | None, options: dict[str, str]) -> Synchronous:
    unknown = sorted(options.keys() - {"synchronous"})
    value = given or options.get("synchronous", "normal").lower()
    if unknown or value not in get_args(Synchronous):
        wrong = ", ".join(unknown) or f"synchronous={value}"
        raise ConfigurationError(
            f"{wrong} is no option of a SQLite store; use synchronous=normal or synchronous=full."
        )
    return cast("Synchronous", value)


def _open(path: Path, synchronous: Synchronous) -> SqliteCollections:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = SqliteConnection(path)
        try:
            connection.begin(write=True)
            prepare(connection, str(path))
            connection.commit()
        finally:
            connection.rollback()
            connection.close()
        return SqliteCollections(path, synchronous=synchronous)
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(
            f"{path} cannot be opened as a SQLite database: {error}"
        ) from error


class SQLiteLightningStore(CollectionBasedLightningStore):
    """A store in a SQLite file, for any number of threads and event loops of one process.

    A running attempt's limits keep counting while nobody has the file open, so that one whose
    process died is found lost when it is opened again. Several processes of one machine may open
    the file at once; whoever waits in one is woken by what another one does. Across machines,
    serve the store with a `LightningStoreServer`: a file on a network share is not safe.

    Args:
        database: A path, or `sqlite:///relative/file.db`, which may end in `?synchronous=full`;
            folders are made as needed.
        synchronous: What a call's return promises. `normal`, the default: its writes survive any
            end of the process; a power cut may take back the last ones, in order and as wholes.
            `full`: they survive a power cut too, and each write waits for the disk.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Raises:
        ConfigurationError: The file is no SQLite database, or not of a layout known here.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        synchronous: Synchronous | None = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        self.path, options = _path_and_options(database)
        collections = _open(self.path, _synchronous(synchronous, options))
        super().__init__(collections, tracker=tracker, scan_debounce_seconds=scan_debounce_seconds)
        if self._watchdog is not None:
            # Attempts may have run out while the file was closed.
            self._watchdog.expect(now())

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=False
        )


SQLiteStore = SQLiteLightningStore
