"""The store in a SQLite file: it survives the process, however that ends.

A call that has returned is in the file's write-ahead log: a killed process loses nothing of it.
(A power cut may lose the last moments, never the file: `synchronous=NORMAL`.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from agentlightning._internal.clock import now
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based import CollectionBasedLightningStore
from agentlightning.store.collections.sql import SqlLightningCollections
from agentlightning.store.collections.sql.schema import SCHEMA_VERSION, layout, metadata

__all__ = ["SQLiteLightningStore", "SQLiteStore"]

_PREFIX: Final = "sqlite:///"
_BUSY_MILLISECONDS: Final = 30_000
_PRAGMAS: Final = (
    f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA cache_size=-65536",
    "PRAGMA temp_store=MEMORY",
)


def _path(database: str | Path) -> Path:
    """Return the file that a path or a `sqlite:///` URL names."""
    text = str(database)
    if "://" in text and not text.startswith(_PREFIX):
        raise ConfigurationError(
            f"{text!r} is no SQLite URL; write sqlite:///relative/file.db or "
            "sqlite:////absolute/file.db."
        )
    path = text.removeprefix(_PREFIX)
    if path in {"", ":memory:"}:
        raise ConfigurationError(
            "A SQLite store needs a file; for a store in memory use InMemoryLightningStore."
        )
    return Path(path).expanduser()


def _connect_to(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    def on_connect(connection: Any, _: Any) -> None:
        # The driver's own transactions begin too late; `on_begin` begins them instead.
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("agl_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _prepare(connection: Connection, path: Path) -> None:
    """Create the tables in a new file, and refuse a file whose layout is not ours."""
    tables = inspect(connection).get_table_names()
    if not tables:
        metadata.create_all(connection)
        connection.execute(insert(layout), {"version": SCHEMA_VERSION})
        return
    version = None
    if layout.name in tables:
        version = connection.execute(select(layout.c.version)).scalar()
    if version is None:
        raise ConfigurationError(
            f"{path} is a SQLite database of another program; give a new file."
        )
    if version != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} has store layout {version}, this version of agentlightning reads layout "
            f"{SCHEMA_VERSION}; upgrade agentlightning, or give a new file."
        )


class SQLiteLightningStore(CollectionBasedLightningStore):
    """A store in a SQLite file, for any number of threads and event loops of one process.

    A running attempt's limits keep counting while nobody has the file open, so that one whose
    process died is found lost when it is opened again. Other processes should use the store
    through a `LightningStoreServer`: they may open the file too, but then learn of each other's
    changes only every ten seconds.

    Args:
        database: A path, or `sqlite:///relative/file.db`; folders are made as needed.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Raises:
        ConfigurationError: The file is no SQLite database, or not of a layout known here.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        self.path = _path(database)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        engine = _connect_to(self.path)
        try:
            writing = engine.execution_options(agl_writes=True)
            with writing.begin() as connection:
                _prepare(connection, self.path)
        except DatabaseError as error:
            raise ConfigurationError(
                f"{self.path} cannot be opened as a SQLite database: {error.orig}"
            ) from error
        super().__init__(
            SqlLightningCollections(engine, begin_write={"agl_writes": True}),
            tracker=tracker,
            scan_debounce_seconds=scan_debounce_seconds,
        )
        if self._watchdog is not None:
            # Attempts may have run out while the file was closed.
            self._watchdog.expect(now())

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=False
        )


SQLiteStore = SQLiteLightningStore
