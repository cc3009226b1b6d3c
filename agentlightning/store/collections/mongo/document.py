"""Records and queue entries as documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from bson import ObjectId
from pydantic import BaseModel

from agentlightning.store.collections.changes import Reply
from agentlightning.store.collections.codec import encode
from agentlightning.store.collections.mongo.layout import PARTITION, Document, RecordLayout
from agentlightning.types import StoreEvent

M = TypeVar("M", bound=BaseModel)


def key_of(layout: RecordLayout[M], record: M) -> tuple[Any, ...]:
    """Return the values of a record's key."""
    return tuple(getattr(record, name) for name in layout.keys)


def id_of(partition: str, key: Sequence[Any]) -> str:
    """Return the `_id` of a record, by which it is found fastest.

    A record that is written a second time is there, and not doubled.
    """
    return json.dumps([partition, *key])


def content(layout: RecordLayout[M], record: M) -> Document:
    """Return what a document says of a record."""
    fields = vars(record)
    document = {name: fields[name] for name in layout.fields}
    document["payload"] = encode(record)
    return document


def new_document(layout: RecordLayout[M], partition: str, record: M, order: int) -> Document:
    """Return the document of a new record."""
    return {
        "_id": id_of(partition, key_of(layout, record)),
        PARTITION: partition,
        "o": order,
        "v": 0,
        **content(layout, record),
    }


def queue_document(partition: str, value: str, order: int) -> Document:
    """Return the document of a rollout that gets in line."""
    return {"_id": ObjectId(), PARTITION: partition, "o": order, "value": value}


def event_document(partition: str, writer: str, event: StoreEvent) -> Document:
    """Return the document of an event that has its `seq`."""
    return {
        "_id": ObjectId(),
        PARTITION: partition,
        "seq": event.seq,
        "writer": writer,
        "payload": encode(event),
    }


def reply_document(partition: str, reply: Reply) -> Document:
    """Return the document of a reply, which the server drops after an hour."""
    return {
        "_id": ObjectId(),
        PARTITION: partition,
        "key": reply.key,
        "time": reply.time,
        "created_at": datetime.fromtimestamp(reply.time, UTC),
        "refs": reply.refs,
    }


def reply_of(document: Document) -> Reply:
    """Return the reply that a document holds."""
    return Reply(key=document["key"], time=document["time"], refs=document["refs"])
