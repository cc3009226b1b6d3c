"""Collections: what is a field, what is indexed, and which version of the layout a database has.

Every document carries `partition_id`, and every record is kept whole as JSON in `payload`; the
other fields repeat what queries filter and sort by. `o` is the order of insertion, `v` counts the
changes of a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, get_args

from pydantic import BaseModel
from pymongo import IndexModel
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from agentlightning.errors import ConfigurationError
from agentlightning.store.collections.changes import REPLY_SECONDS
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

M = TypeVar("M", bound=BaseModel)
Document = dict[str, Any]
Database = AsyncDatabase[Document]

LAYOUT_VERSION: Final = 1
"""Raise it with every change that older code could not read, and add the migration."""
LAYOUT: Final = "agentlightning_layout"
PARTITIONS: Final = "agentlightning_partitions"
"""One document for each partition: its counters, and its lock where there are no transactions."""
SESSIONS: Final = "agentlightning_sessions"
"""The sessions in which stores have transactions, so that those of the dead can be ended."""
SESSION_SECONDS: Final = 86_400
"""How long a session is used; a day later it is forgotten."""
QUEUE: Final = "rollout_queue"
COUNTERS: Final = "span_sequence_ids"
EVENTS: Final = "events"
REPLIES: Final = "replies"
PARTITION: Final = "partition_id"

_INDEX_EXISTS: Final = 85
"""The server's code for an index of the same keys with another name, such as 0.3.0 made."""


@dataclass(frozen=True, slots=True)
class RecordLayout(Generic[M]):
    """How the records of one model are kept.

    Attributes:
        name: The collection.
        model: The records' class.
        keys: The fields that identify a record within a partition.
        others: Further fields that queries filter and sort by.
        guarded: Changes are checked against the `v` that the step read.
    """

    name: str
    model: type[M]
    keys: tuple[str, ...]
    others: tuple[str, ...]
    guarded: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the fields that documents repeat."""
        return (*self.keys, *self.others)

    def is_text(self, field: str) -> bool:
        """Return whether a field holds text; the others hold numbers."""
        parts = self._parts(field)
        return not {int, float} & set(parts)

    def is_nullable(self, field: str) -> bool:
        """Return whether a field may be None."""
        return type(None) in self._parts(field)

    def _parts(self, field: str) -> tuple[Any, ...]:
        annotation = self.model.model_fields[field].annotation
        return get_args(annotation) or (annotation,)


ROLLOUTS: Final = RecordLayout(
    "rollouts",
    Rollout,
    ("rollout_id",),
    ("status", "mode", "resources_id", "start_time", "end_time"),
    guarded=True,
)
ATTEMPTS: Final = RecordLayout(
    "attempts",
    Attempt,
    ("rollout_id", "attempt_id"),
    ("sequence_id", "status", "start_time", "end_time", "worker_id", "last_heartbeat_time"),
)
SPANS: Final = RecordLayout(
    "spans",
    Span,
    ("rollout_id", "attempt_id", "span_id"),
    ("sequence_id", "trace_id", "parent_id", "name", "start_time", "end_time"),
)
RESOURCES: Final = RecordLayout(
    "resources",
    ResourcesUpdate,
    ("resources_id",),
    ("create_time", "update_time", "version"),
    guarded=True,
)
VERSIONS: Final = RecordLayout(
    "resource_versions",
    ResourcesUpdate,
    ("resources_id", "version"),
    ("create_time", "update_time"),
)
WORKERS: Final = RecordLayout(
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
    guarded=True,
)
RECORDS: Final[tuple[RecordLayout[Any], ...]] = (
    ROLLOUTS,
    ATTEMPTS,
    SPANS,
    RESOURCES,
    VERSIONS,
    WORKERS,
)


def _index(*fields: str, **options: Any) -> IndexModel:
    keys = [(each.removeprefix("-"), -1 if each[0] == "-" else 1) for each in fields]
    return IndexModel([(PARTITION, 1), *keys], **options)


_FURTHER: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "rollouts": (("status", "o"), ("start_time", "o"), ("start_time", "-o")),
    "attempts": (("status",), ("sequence_id",), ("rollout_id", "sequence_id")),
    "spans": (
        ("sequence_id",),
        ("rollout_id", "sequence_id", "o"),
        ("rollout_id", "sequence_id", "-o"),
    ),
    "resources": (("update_time",),),
    "resource_versions": (),
    "workers": (("status",),),
}


def indexes() -> dict[str, list[IndexModel]]:
    """Return the indexes of each collection."""
    found = {
        layout.name: [
            _index(*layout.keys, unique=True),
            _index("o"),
            *(_index(*fields) for fields in _FURTHER[layout.name]),
        ]
        for layout in RECORDS
    }
    found[QUEUE] = [_index("o"), _index("value")]
    found[COUNTERS] = [_index("key", unique=True)]
    found[EVENTS] = [_index("seq", unique=True)]
    found[REPLIES] = [
        _index("key", unique=True),
        IndexModel([("created_at", 1)], expireAfterSeconds=int(REPLY_SECONDS)),
    ]
    found[SESSIONS] = [
        _index("writer"),
        IndexModel([("created_at", 1)], expireAfterSeconds=2 * SESSION_SECONDS),
    ]
    return found


async def prepare(database: Database) -> None:
    """Make the indexes of a new database, and refuse a layout that is not known here.

    Raises:
        ConfigurationError: A later version of this package wrote the database.
    """
    kept = await database[LAYOUT].find_one({"_id": "layout"})
    version = 0 if kept is None else kept["version"]
    if version > LAYOUT_VERSION:
        raise ConfigurationError(
            f"Database {database.name} has store layout {version}, this version of "
            f"agentlightning reads up to layout {LAYOUT_VERSION}; upgrade agentlightning, or give "
            "another database."
        )
    if version == LAYOUT_VERSION:
        return
    for name, models in indexes().items():
        for model in models:
            try:
                await database[name].create_indexes([model])
            except OperationFailure as error:
                if error.code != _INDEX_EXISTS:
                    raise
    # Written last, so that a crash in between makes the indexes again.
    await database[LAYOUT].update_one(
        {"_id": "layout"}, {"$max": {"version": LAYOUT_VERSION}}, upsert=True
    )
