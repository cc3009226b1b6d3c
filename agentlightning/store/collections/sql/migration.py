"""Which version of the layout a database has, and how an older one becomes the present one.

Migrations run when a database is opened, in order, in one transaction that keeps others out: of
two processes that open an old database at once, one migrates and the other finds it done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, insert, select, text, update
from sqlalchemy.schema import CreateIndex, CreateTable

from agentlightning.errors import ConfigurationError
from agentlightning.store.collections.codec import decode
from agentlightning.store.collections.sql import schema
from agentlightning.store.collections.sql.contents import ContentSink
from agentlightning.store.collections.sql.records import (
    ATTEMPTS,
    RESOURCE_VERSIONS,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    WORKERS,
    Records,
)
from agentlightning.store.collections.sql.sequence import SqlJournal
from agentlightning.store.collections.sql.statement import Executor, Statement, first
from agentlightning.store.collections.sql.totals import Totals
from agentlightning.types import StoreEvent

_LOCK: Final = "layout"
_VERSION: Final = Statement(select(schema.layout.c.version))
_INSERT_VERSION: Final = Statement(insert(schema.layout).values(version=bindparam("v")), "v")
_SET_VERSION: Final = Statement(update(schema.layout).values(version=bindparam("v")), "v")
_BATCH: Final = 1000


class Migration(NamedTuple):
    """One step from a version of the layout to the next."""

    version: int
    """The version that the database has afterwards."""
    upgrade: Callable[[Executor], None]


def _create(executor: Executor, present: set[str]) -> None:
    """Create the tables that are not there, with their indexes."""
    for table in schema.metadata.sorted_tables:
        if table.name in present:
            continue
        executor.run(str(CreateTable(table).compile(dialect=executor.dialect)))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            executor.run(str(CreateIndex(index).compile(dialect=executor.dialect)))


def _old_rows(executor: Executor, name: str, columns: str) -> Iterator[list[Any]]:
    """Yield the rows of a table of an older layout, in batches, by its first column."""
    order = columns.partition(",")[0]
    after = -1
    while True:
        query = text(
            f"SELECT {columns} FROM {name} WHERE {order} > :after ORDER BY {order} LIMIT {_BATCH}"
        )
        rows = executor.select(query.bindparams(after=after))
        if not rows:
            return
        yield rows
        after = rows[-1][0]


def _copy(executor: Executor, records: Records[Any], name: str) -> None:
    totals = Totals()
    sink = ContentSink()
    for rows in _old_rows(executor, name, "ordinal, payload"):
        items = [decode(records.model, payload) for _, payload in rows]
        if records is SPANS:
            SPANS.insert_into(executor, items, totals, sink)
        else:
            records.insert(executor, items, totals)
    totals.flush(executor)


def _copy_events(executor: Executor, name: str) -> None:
    last = 0
    for rows in _old_rows(executor, name, "seq, payload"):
        for seq, payload in rows:
            SqlJournal.add(executor, [decode(StoreEvent, payload)], seq - 1)
            last = seq
    Totals().flush(executor, last)


def _split_payloads(executor: Executor) -> None:
    """From 1, where records were whole in `payload`, events one to a row, and nothing counted."""
    tables: tuple[Records[Any], ...] = (
        ROLLOUTS, ATTEMPTS, SPANS, RESOURCES, RESOURCE_VERSIONS, WORKERS
    )  # fmt: skip
    for index in (
        "rollouts_status",
        "rollouts_start_time",
        "attempts_sequence",
        "spans_sequence",
        "resources_update_time",
    ):
        executor.run(f"DROP INDEX {index}")
    names = [records.table.name for records in tables] + ["events"]
    for name in names:
        executor.run(f"ALTER TABLE {name} RENAME TO v1_{name}")
    _create(executor, executor.tables())
    for records in tables:
        _copy(executor, records, f"v1_{records.table.name}")
    _copy_events(executor, "v1_events")
    for name in names:
        executor.run(f"DROP TABLE v1_{name}")
    executor.run("ALTER TABLE events DROP COLUMN counts")


def _count_with_events(executor: Executor) -> None:
    """From 2, where SQLite too wrote the totals with every step."""
    executor.run("ALTER TABLE events ADD COLUMN counts TEXT")


MIGRATIONS: Final = (Migration(2, _split_payloads), Migration(3, _count_with_events))
SCHEMA_VERSION: Final = MIGRATIONS[-1].version


def prepare(executor: Executor, where: str) -> None:
    """Bring a database to the present layout, within a transaction.

    Args:
        executor: The transaction; in SQLite it holds the write lock.
        where: What to call the database in an error.

    Raises:
        ConfigurationError: It belongs to another program, or to a later version.
    """
    executor.lock(_LOCK)
    present = executor.tables()
    if not present & set(schema.metadata.tables):
        if present and not executor.may_share_database:
            raise ConfigurationError(f"{where} is a database of another program; give a new one.")
        _create(executor, present)
        executor.change(_INSERT_VERSION, (SCHEMA_VERSION,))
        return
    version = first(executor, _VERSION) if schema.layout.name in present else None
    if version is None:
        raise ConfigurationError(f"{where} is a database of another program; give a new one.")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{where} has store layout {version}, this version of agentlightning knows layouts "
            f"up to {SCHEMA_VERSION}; upgrade agentlightning, or give a new database."
        )
    for migration in MIGRATIONS:
        if migration.version > version:
            migration.upgrade(executor)
            executor.change(_SET_VERSION, (migration.version,))
