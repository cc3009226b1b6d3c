"""Tables: what is a column, what is indexed. `migration` brings older databases to this layout.

A record's fields that queries filter and sort by are columns, the rest is JSON in `body`.
`ordinal` is the order of insertion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

metadata: Final = MetaData()

# Texts compare by code points, as Python's do, whatever the database's locale is.
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
_NUMBER: Final = BigInteger().with_variant(Integer(), "sqlite")
_TYPES: Final[Mapping[type, Any]] = {str: _TEXT, int: _NUMBER, float: Double()}


def _column(model: type[BaseModel], name: str) -> Column[Any]:
    """Return the column of a scalar field, typed and nullable as the model says."""
    annotation = model.model_fields[name].annotation
    parts = get_args(annotation) or (annotation,)
    # What is neither a plain type nor an optional one is a literal of strings.
    kind = next((part for part in parts if part in _TYPES), str)
    # A NaN is stored as NULL, so that floats may always be NULL.
    nullable = type(None) in parts or (kind is float)
    return Column(name, _TYPES[kind], nullable=nullable)


def _records(
    name: str, model: type[BaseModel], keys: tuple[str, ...], others: tuple[str, ...]
) -> Table:
    columns = [_column(model, field) for field in (*keys, *others)]
    return Table(
        name,
        metadata,
        Column("ordinal", _NUMBER, primary_key=True),
        *columns,
        Column("body", Text, nullable=False),
        UniqueConstraint(*keys, name=f"{name}_key"),
        info={"model": model, "keys": keys, "fields": (*keys, *others)},
    )


rollouts: Final = _records(
    "rollouts",
    Rollout,
    ("rollout_id",),
    ("status", "mode", "resources_id", "start_time", "end_time"),
)
attempts: Final = _records(
    "attempts",
    Attempt,
    ("rollout_id", "attempt_id"),
    ("sequence_id", "status", "start_time", "end_time", "worker_id", "last_heartbeat_time"),
)
spans: Final = _records(
    "spans",
    Span,
    ("rollout_id", "attempt_id", "span_id"),
    ("sequence_id", "trace_id", "parent_id", "name", "start_time", "end_time"),
)
resources: Final = _records(
    "resources",
    ResourcesUpdate,
    ("resources_id",),
    ("create_time", "update_time", "version"),
)
resource_versions: Final = _records(
    "resource_versions",
    ResourcesUpdate,
    ("resources_id", "version"),
    ("create_time", "update_time"),
)
workers: Final = _records(
    "workers",
    Worker,
    ("worker_id",),
    (
        "status",
        "last_heartbeat_time",
        "last_dequeue_time",
        "last_busy_time",
        "last_idle_time",
        "current_rollout_id",
        "current_attempt_id",
    ),
)
# Perf: each index costs every write a page, so there are none that a listing can do without.
Index("rollouts_status", rollouts.c.status)
Index("rollouts_mode", rollouts.c.mode, sqlite_where=rollouts.c.mode.is_not(None))
Index("rollouts_start_time", rollouts.c.start_time)
Index("rollouts_end_time", rollouts.c.end_time)
Index("spans_sequence", spans.c.rollout_id, spans.c.sequence_id)
Index("resources_update_time", resources.c.update_time)

rollout_queue: Final = Table(
    "rollout_queue",
    metadata,
    Column("ordinal", _NUMBER, primary_key=True),
    Column("value", _TEXT, nullable=False, index=True),
)
rollout_tags: Final = Table(
    "rollout_tags",
    metadata,
    Column("key", _TEXT, nullable=False),
    Column("value", _TEXT, nullable=False),
    Column("ordinal", _NUMBER, nullable=False),
    PrimaryKeyConstraint("key", "value", "ordinal"),
    sqlite_with_rowid=False,
)
"""The plain values in rollouts' metadata, by which they are found."""

span_sequence_ids: Final = Table(
    "span_sequence_ids",
    metadata,
    Column("key", _TEXT, primary_key=True),
    Column("value", _NUMBER, nullable=False),
    sqlite_with_rowid=False,
)
contents: Final = Table(
    "contents",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("data", Text, nullable=False),
)
content_owners: Final = Table(
    "content_owners",
    metadata,
    Column("rollout_id", _TEXT, nullable=False),
    Column("name", _TEXT, nullable=False, index=True),
    PrimaryKeyConstraint("rollout_id", "name"),
    sqlite_with_rowid=False,
)
totals: Final = Table(
    "totals",
    metadata,
    Column("name", _TEXT, primary_key=True),
    Column("value", _NUMBER, nullable=False),
    sqlite_with_rowid=False,
)
"""How many records there are, of rollouts also by status and mode, and the last event's number:
always exact. Where several write side by side, they wait for one another here.

SQLite, where nobody writes side by side, keeps what a step changes with the step's events, and adds
it up now and then: `events` is then the number of the last event whose counts are in here.
"""

events: Final = Table(
    "events",
    metadata,
    # One row holds the events of one step, numbered without a gap up to `seq`.
    Column("seq", _NUMBER, primary_key=True, autoincrement=False),
    Column("count", _NUMBER, nullable=False),
    Column("body", Text, nullable=False),
    # What the step changes about the totals, as JSON.
    Column("counts", Text),
)
replies: Final = Table(
    "replies",
    metadata,
    Column("key", _TEXT, primary_key=True),
    Column("time", Double, nullable=False, index=True),
    Column("refs", Text, nullable=False),
)
layout: Final = Table(
    "agentlightning_layout",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)
