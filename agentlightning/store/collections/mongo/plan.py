"""What a step's changes mean in documents: which are inserted, updated and removed, in which order.

Every update of a guarded record names the version that the step read, and gives it the next one.
So it happens once, however often it is written, and not at all when somebody else was faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from bson import ObjectId
from pydantic import BaseModel
from pymongo import DeleteMany, InsertOne, UpdateOne

from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.mongo.block import Block, RecordKey
from agentlightning.store.collections.mongo.document import (
    content,
    event_document,
    id_of,
    key_of,
    new_document,
    queue_document,
    reply_document,
)
from agentlightning.store.collections.mongo.layout import (
    ATTEMPTS,
    COUNTERS,
    EVENTS,
    PARTITION,
    QUEUE,
    REPLIES,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    VERSIONS,
    WORKERS,
    Document,
    RecordLayout,
)

M = TypeVar("M", bound=BaseModel)
Model = InsertOne[Document] | UpdateOne | DeleteMany

WRITE_ORDER: Final = (
    ROLLOUTS.name,
    ATTEMPTS.name,
    SPANS.name,
    COUNTERS,
    WORKERS.name,
    VERSIONS.name,
    RESOURCES.name,
    EVENTS,
    REPLIES,
    QUEUE,
)
"""Rollouts first and the queue last: a rollout that waits but is not in line can be repaired."""


@dataclass(slots=True)
class Write:
    """One write to one collection.

    Attributes:
        collection: Its name.
        kind: `update` and `remove` have to find a document; `upsert` makes it where there is none.
        where: Which document; nothing for an insert.
        body: The document or the update; nothing for a removal.
    """

    collection: str
    kind: Literal["insert", "update", "upsert", "delete", "remove"]
    where: Document
    body: Document

    def model(self) -> Model:
        """Return what the driver takes."""
        if self.kind == "insert":
            return InsertOne(self.body)
        if self.kind in {"delete", "remove"}:
            return DeleteMany(self.where)
        return UpdateOne(self.where, self.body, upsert=self.kind == "upsert")


class Plan:
    """The writes of one step.

    Args:
        changes: What the step wants written.
        block: What it read before.
        writer: Who we are.
    """

    def __init__(self, changes: Changes, block: Block, writer: str) -> None:
        self.changes = changes
        self._seen = block.seen
        self._held = block.held
        self._removed = block.removed
        self._partition = block.opened.partition
        self._writer = writer
        self._order = 0

    def expected(self) -> dict[RecordKey, int | None]:
        """Return the versions that the guarded records must still have; None for no record."""
        keys = self._held | self._updated()
        versions = {key: self._seen[key] for key in keys if key in self._seen}
        return versions | dict.fromkeys(
            ((ROLLOUTS.name, (rollout_id,)) for rollout_id in self.changes.new_rollouts), None
        )

    def _updated(self) -> set[RecordKey]:
        """Return the guarded records that are written."""
        changes = self.changes
        return {
            *((ROLLOUTS.name, (rollout_id,)) for rollout_id in changes.rollouts),
            *((WORKERS.name, (worker_id,)) for worker_id in changes.workers),
            *((RESOURCES.name, key_of(RESOURCES, item)) for item in changes.resources),
        }

    @property
    def ordered(self) -> int:
        """Return how many numbers of the partition's order its new documents take at most."""
        changes = self.changes
        return (
            len(changes.new_rollouts)
            + len(changes.new_attempts)
            + len(changes.new_spans)
            + len(changes.workers)
            + len(changes.resources)
            + len(changes.superseded)
            + len(changes.queued)
        )

    def writes(self, seq: int, order: int, queued: Sequence[ObjectId] | None = None) -> list[Write]:
        """Return the writes, sorted as they must happen.

        Args:
            seq: The first event's number; the events are given theirs.
            order: The first of `ordered` numbers.
            queued: The documents of `unqueued`; None removes them by what they say.
        """
        self._order = order
        return [
            *self._rollouts(),
            *self._touched(),
            *self._removals(),
            *self._attempts(),
            *self._spans(),
            *self._put(WORKERS, list(self.changes.workers.values())),
            *(self._new(VERSIONS, item) for item in self.changes.superseded),
            *self._put(RESOURCES, self.changes.resources),
            *self._events(seq),
            *self._queue(queued),
        ]

    def _next(self) -> int:
        self._order += 1
        return self._order - 1

    def _mine(self, **fields: Any) -> Document:
        return {PARTITION: self._partition, **fields}

    def _key(self, layout: RecordLayout[M], record: M) -> Document:
        return {"_id": id_of(self._partition, key_of(layout, record))}

    def _new(self, layout: RecordLayout[M], record: M) -> Write:
        document = new_document(layout, self._partition, record, self._next())
        return Write(layout.name, "insert", {}, document)

    def _put(self, layout: RecordLayout[M], records: Sequence[M]) -> Iterator[Write]:
        """Insert a record that was not there, or update the version that was read."""
        for record in records:
            key = (layout.name, key_of(layout, record))
            where, body = self._key(layout, record), content(layout, record)
            if key not in self._seen:
                update = {
                    "$set": body,
                    "$inc": {"v": 1},
                    "$setOnInsert": {PARTITION: self._partition, "o": self._next()},
                }
                yield Write(layout.name, "upsert", where, update)
                continue
            version = self._seen[key]
            if version is None:
                yield self._new(layout, record)
            else:
                where["v"] = version
                yield Write(layout.name, "update", where, {"$set": {**body, "v": version + 1}})

    def _rollouts(self) -> Iterator[Write]:
        for rollout in self.changes.new_rollouts.values():
            yield self._new(ROLLOUTS, rollout)
        yield from self._put(ROLLOUTS, list(self.changes.rollouts.values()))

    def _touched(self) -> Iterator[Write]:
        """Give what was only read a new version, so that its changes and ours exclude each other."""
        gone = {
            (ROLLOUTS.name, (key,)) for key, spans_only in self._removed.items() if not spans_only
        }
        for name, key in self._held - self._updated() - gone:
            version = self._seen[name, key]
            if version is not None:
                where = {"_id": id_of(self._partition, key), "v": version}
                yield Write(name, "update", where, {"$set": {"v": version + 1}})

    def _attempts(self) -> Iterator[Write]:
        for attempt in self.changes.removed_attempts:
            yield Write(ATTEMPTS.name, "delete", self._key(ATTEMPTS, attempt), {})
        for attempt in self.changes.new_attempts.values():
            yield self._new(ATTEMPTS, attempt)
        for attempt in self.changes.attempts.values():
            body = {"$set": content(ATTEMPTS, attempt), "$inc": {"v": 1}}
            yield Write(ATTEMPTS.name, "update", self._key(ATTEMPTS, attempt), body)

    def _spans(self) -> Iterator[Write]:
        for span in self.changes.new_spans:
            yield self._new(SPANS, span)
        for rollout_id, highest in self.changes.sequence_ids.items():
            body = {"$max": {"value": highest}}
            yield Write(COUNTERS, "upsert", self._mine(key=rollout_id), body)

    def _removals(self) -> Iterator[Write]:
        for rollout_id, spans_only in self._removed.items():
            mine = self._mine(rollout_id=rollout_id)
            yield Write(SPANS.name, "delete", mine, {})
            if spans_only:
                continue
            version = self._seen[ROLLOUTS.name, (rollout_id,)]
            where = {"_id": id_of(self._partition, (rollout_id,)), "v": version}
            yield Write(ROLLOUTS.name, "remove", where, {})
            yield Write(ATTEMPTS.name, "delete", mine, {})
            yield Write(COUNTERS, "delete", self._mine(key=rollout_id), {})

    def _events(self, seq: int) -> Iterator[Write]:
        for place, event in enumerate(self.changes.events):
            event.seq = seq + place
            yield Write(EVENTS, "insert", {}, event_document(self._partition, self._writer, event))
        if self.changes.reply is not None:
            document = reply_document(self._partition, self.changes.reply)
            yield Write(REPLIES, "insert", {}, document)

    def _queue(self, queued: Sequence[ObjectId] | None) -> Iterator[Write]:
        if self.changes.unqueued:
            where = (
                self._mine(value={"$in": self.changes.unqueued})
                if queued is None
                else {"_id": {"$in": list(queued)}}
            )
            yield Write(QUEUE, "delete", where, {})
        for rollout_id in self.changes.queued:
            document = queue_document(self._partition, rollout_id, self._next())
            yield Write(QUEUE, "insert", {}, document)


def by_collection(writes: Sequence[Write]) -> Iterator[tuple[str, list[Write]]]:
    """Yield each collection's writes, collections in the order in which they are written."""
    for name in WRITE_ORDER:
        chosen = [write for write in writes if write.collection == name]
        if chosen:
            yield name, chosen
