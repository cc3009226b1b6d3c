"""Tables: what is a column, what is indexed, and which version of the layout a database has.

Every record is kept whole as JSON in `payload`; the other columns repeat the fields that queries
filter and sort by. `ordinal` is the order of insertion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, get_args

from pydantic import BaseModel
from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

SCHEMA_VERSION: Final = 1
"""Raise it with every change that older code could not read, and add the migration."""

metadata: Final = MetaData()

_TYPES: Final[Mapping[type, type[String | Integer | Float[float]]]] = {
    str: String,
    int: Integer,
    float: Float,
}


def _column(model: type[BaseModel], name: str) -> Column[object]:
    """Return the column of a scalar field, typed and nullable as the model says."""
    annotation = model.model_fields[name].annotation
    parts = get_args(annotation) or (annotation,)
    # What is neither a plain type nor an optional one is a literal of strings.
    kind = next((part for part in parts if part in _TYPES), str)
    return Column(name, _TYPES[kind], nullable=type(None) in parts)


def _records(
    name: str, model: type[BaseModel], keys: tuple[str, ...], others: tuple[str, ...]
) -> Table:
    columns = [_column(model, field) for field in (*keys, *others)]
    return Table(
        name,
        metadata,
        Column("ordinal", Integer, primary_key=True),
        *columns,
        Column("payload", Text, nullable=False),
        UniqueConstraint(*keys, name=f"{name}_key"),
        info={"model": model, "keys": keys},
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
Index("rollouts_status", rollouts.c.status)
Index("rollouts_start_time", rollouts.c.start_time)
Index("attempts_sequence", attempts.c.rollout_id, attempts.c.sequence_id)
Index("spans_sequence", spans.c.rollout_id, spans.c.sequence_id)
Index("resources_update_time", resources.c.update_time)

rollout_queue: Final = Table(
    "rollout_queue",
    metadata,
    Column("ordinal", Integer, primary_key=True),
    Column("value", String, nullable=False, index=True),
    # A queue runs empty, and its numbers must keep growing for the order to hold.
    sqlite_autoincrement=True,
)
span_sequence_ids: Final = Table(
    "span_sequence_ids",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Integer, nullable=False),
)
events: Final = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("payload", Text, nullable=False),
)
layout: Final = Table(
    "agentlightning_layout",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)
