"""Spans as they are kept in memory: what is filtered by stays readable, the rest becomes bytes.

What many spans of a rollout have in common (the keys of their attributes, their resource, ...) is
their shape, which they share. A span of 14 attributes takes about 0.7 KB of its own this way, a
sixth of the model. Values are written as JSON where that keeps them exactly, and else by `marshal`
(NaN, large integers, lone surrogates, and lists, of which it makes half as many bytes); they are
read by the process that wrote them and never leave it.
"""

from __future__ import annotations

import marshal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeVar

import orjson
from pydantic import BaseModel

from agentlightning.store.record import build
from agentlightning.types import (
    AttributeValue,
    Event,
    Link,
    OtelResource,
    Span,
    SpanContext,
    TraceStatus,
)

__all__ = [
    "PackedSpan",
    "Shape",
    "Shared",
    "is_packed_read",
    "reading_packed",
    "span_fields",
    "unpack_resource",
]

T = TypeVar("T")

_FORMAT: Final = 2
"""Without back references, which cost more than they save in so little data."""
_OVERHEAD: Final = 400
"""Bytes of the object, its texts and numbers, and its places in the table."""
_SCALARS: Final = frozenset[type]({str, int, float, bool, type(None)})
_JSON_SCALARS: Final = frozenset[type]({str, int, float, bool})
_JSON_LIST: Final = ord("[")
"""First byte of values in JSON; `marshal` begins a tuple with another."""
_OWN: Final = True
"""Stands for the context that follows from the span's own ids."""

_is_packed_read: ContextVar[bool] = ContextVar("agentlightning_packed_read", default=False)

Shape = tuple[str, str, str | None, bool, bool, str | bytes, tuple[str, ...]]
"""Rollout, attempt, status code, whether there is a context and a parent, resource, and keys of
the attributes. Without a status code the span has unusual parts, which are packed with its values.
"""


class Shared(Protocol):
    """Where equal values become one object: `shared.setdefault(value, value)`."""

    def setdefault(self, key: T, default: T, /) -> T:
        """Return the value that is kept, which is the given one if there was none."""
        ...


class PackedSpan:
    """One span; fields that have no attribute here are unpacked when asked for.

    Attributes:
        shape: What the span has in common with others.
        packed: The values of its attributes, with all unusual parts; or the span as it is.
    """

    __slots__ = (
        "end_time",
        "name",
        "packed",
        "parent_id",
        "sequence_id",
        "shape",
        "span_id",
        "start_time",
        "trace_id",
    )

    def __init__(self, span: Span, shared: Shared, before: PackedSpan | None = None) -> None:
        """Pack a span; a value that cannot be packed keeps the whole span as it is.

        Args:
            span: The span.
            shared: What spans of its rollout have in common.
            before: Another span of the rollout, likely of the same trace.
        """
        trace_id, parent_id = span.trace_id, span.parent_id
        if before is not None:
            if before.trace_id == trace_id:
                trace_id = before.trace_id
            if before.parent_id == parent_id:
                parent_id = before.parent_id
        self.sequence_id = span.sequence_id
        self.trace_id = trace_id
        self.span_id = span.span_id
        self.parent_id = parent_id
        self.name = shared.setdefault(span.name, span.name)
        self.start_time = span.start_time
        self.end_time = span.end_time
        try:
            shape, self.packed = _pack(span)
        except (ValueError, AttributeError, KeyError, RecursionError):
            # Numbers of numpy and the like, which only models that were not validated hold, and
            # values that are nested too deeply.
            shape, self.packed = _bare_shape(span), span
        self.shape: Shape = shared.setdefault(shape, shape)

    @classmethod
    def of_parts(cls, parts: Sequence[Any]) -> PackedSpan:
        """Return the packed span that has these parts, in the order of its slots."""
        row = cls.__new__(cls)
        (
            row.end_time,
            row.name,
            row.packed,
            row.parent_id,
            row.sequence_id,
            row.shape,
            row.span_id,
            row.start_time,
            row.trace_id,
        ) = parts
        return row

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.span(), name)

    @property
    def rollout_id(self) -> str:
        """The span's rollout."""
        return self.shape[0]

    @property
    def attempt_id(self) -> str:
        """The span's attempt."""
        return self.shape[1]

    @property
    def size(self) -> int:
        """About how many bytes the span takes, without its shape, which many share."""
        return len(self.packed) + _OVERHEAD if isinstance(self.packed, bytes) else 8 * _OVERHEAD

    @property
    def json_values(self) -> bytes | None:
        """The attributes' values as a JSON list; None where the span is more than its shape, its
        texts and times, and these.
        """
        packed = self.packed
        if isinstance(packed, bytes) and packed[0] == _JSON_LIST:
            return packed + b"]"
        return None

    def span(self, resources: dict[str | bytes, OtelResource] | None = None) -> Span:
        """Return the span, equal to the one that was packed.

        Args:
            resources: Unpacked before for the same reader, who gets each of them once.
        """
        packed = self.packed
        if not isinstance(packed, bytes):
            return packed
        shape, others = self.shape, None
        resource = None if resources is None else resources.get(shape[5])
        if resource is None:
            resource = unpack_resource(shape[5])
            if resources is not None:
                resources[shape[5]] = resource
        values = orjson.loads(packed + b"]") if packed[0] == _JSON_LIST else marshal.loads(packed)
        if shape[2] is None:
            values, others = values
        own = (self.sequence_id, self.trace_id, self.span_id, self.parent_id, self.name)
        fields = span_fields(shape, resource, *own, self.start_time, self.end_time, values)
        return build(Span, fields, {} if others is None else _restore(fields, others))


def span_fields(
    shape: Shape,
    resource: OtelResource,
    sequence_id: int,
    trace_id: str,
    span_id: str,
    parent_id: str | None,
    name: str,
    start_time: float | None,
    end_time: float | None,
    values: Sequence[AttributeValue],
) -> dict[str, Any]:
    """Return the fields of the span that has this shape, besides what is its own."""
    rollout_id, attempt_id, status, has_context, has_parent, _, keys = shape
    return {
        "rollout_id": rollout_id,
        "attempt_id": attempt_id,
        "sequence_id": sequence_id,
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_id": parent_id,
        "name": name,
        "status": build(TraceStatus, {"status_code": status, "description": None}, {}),
        "attributes": dict(zip(keys, values)),  # noqa: B905 - Perf: `strict` doubles its time.
        "events": [],
        "links": [],
        "start_time": start_time,
        "end_time": end_time,
        "context": _own_context(trace_id, span_id) if has_context else None,
        "parent": _own_context(trace_id, parent_id) if has_parent else None,
        "resource": resource,
    }


@contextmanager
def reading_packed() -> Generator[None]:
    """Have the queries within the block answer with packed spans, where they are kept so.

    For readers who would take the spans apart again, such as those who write them as JSON.
    """
    token = _is_packed_read.set(True)
    try:
        yield
    finally:
        _is_packed_read.reset(token)


def is_packed_read() -> bool:
    """Return whether the reader at hand takes packed spans."""
    return _is_packed_read.get()


def _exact(value: Any) -> Any:
    """Return a value that comes back as it was.

    Raises:
        ValueError: A part of it is of a foreign type, whose bytes `marshal` may take instead.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is not dict and kind is not list and kind is not tuple:
        raise ValueError(f"{kind} cannot be packed")
    parts = value.values() if kind is dict else value
    # Perf: a list of token ids is looked through without a call for each.
    if not _SCALARS.issuperset(map(type, parts)):
        for part in parts:
            _exact(part)
    return value


def _pack(span: Span) -> tuple[Shape, bytes]:
    """Return a span's shape, and what else is to be kept.

    Raises:
        ValueError: A part of it is of a foreign type.
    """
    attributes = span.attributes
    if type(span) is not Span or type(attributes) is not dict:
        raise ValueError("the span is of a foreign type")
    status, context, parent = span.status, span.context, span.parent
    keys, values = tuple(attributes), tuple(attributes.values())
    resource = _packed_resource(span.resource)
    usual = (
        status.description is None
        and not status.__pydantic_extra__
        and not span.events
        and not span.links
        and not span.__pydantic_extra__
        and (context is None or _is_own(context, span.trace_id, span.span_id))
        and (parent is None or _is_own(parent, span.trace_id, span.parent_id))
    )
    ids = (span.rollout_id, span.attempt_id)
    if not usual:
        packed = marshal.dumps((_exact(values), _exact(_others(span))), _FORMAT)
        return (*ids, None, False, False, resource, keys), packed
    shape = (*ids, status.status_code, context is not None, parent is not None, resource, keys)
    if _JSON_SCALARS.issuperset(map(type, values)):
        try:
            packed = orjson.dumps(values)
        except TypeError:
            # Lone surrogates, and integers over 64 bits.
            return shape, marshal.dumps(values, _FORMAT)
        # Perf: JSON writes NaN and the infinities as this, so nobody must look at each number.
        if b"null" not in packed:
            # Perf: what orjson gives out takes 4 KB until it is copied, which needs a difference.
            return shape, packed[:-1]
    return shape, marshal.dumps(_exact(values), _FORMAT)


def _bare_shape(span: Span) -> Shape:
    """Return the shape of a span that is kept as it is."""
    return (span.rollout_id, span.attempt_id, None, False, False, "", ())


def _packed_resource(resource: OtelResource) -> str | bytes:
    """Return a resource as bytes; one without attributes as its text."""
    if not resource.attributes and type(resource.schema_url) is str:
        return resource.schema_url
    return marshal.dumps(_exact(_plain(resource)), _FORMAT)


def unpack_resource(packed: str | bytes) -> OtelResource:
    """Return the resource of a shape."""
    if isinstance(packed, str):
        return build(OtelResource, {"attributes": {}, "schema_url": packed})
    return build(OtelResource, *marshal.loads(packed))


def _is_own(context: SpanContext, trace_id: str, span_id: str | None) -> bool:
    """Return whether a context is what `_own_context` makes of the span's ids."""
    return (
        context.span_id == span_id
        and context.trace_id == trace_id
        # `is False`, because 0 would come back as another value.
        and context.is_remote is False
        and not context.trace_state
        and not context.__pydantic_extra__
    )


def _own_context(trace_id: str, span_id: str | None) -> SpanContext:
    fields = {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": {}}
    return build(SpanContext, fields, {})


def _plain(model: BaseModel) -> tuple[dict[str, Any], dict[str, Any] | None]:
    return vars(model), model.__pydantic_extra__


def _plain_context(context: SpanContext | None, trace_id: str, span_id: str | None) -> Any:
    if context is None:
        return None
    return _OWN if _is_own(context, trace_id, span_id) else _plain(context)


def _plain_link(link: Link) -> Any:
    fields, extra = _plain(link)
    return {**fields, "context": _plain(link.context)}, extra


def _others(span: Span) -> tuple[Any, ...]:
    """Return the parts that most spans have in their shape, or not at all."""
    return (
        _plain(span.status),
        _plain_context(span.context, span.trace_id, span.span_id),
        _plain_context(span.parent, span.trace_id, span.parent_id),
        [_plain(event) for event in span.events],
        [_plain_link(link) for link in span.links],
        span.__pydantic_extra__ or {},
    )


def _restore(fields: dict[str, Any], others: tuple[Any, ...]) -> dict[str, Any]:
    """Put the parts of `_others` into a span's fields; return the fields unknown to its class."""
    status, context, parent, events, links, extra = others
    trace_id = fields["trace_id"]
    fields["status"] = build(TraceStatus, *status)
    fields["context"] = _context(context, trace_id, fields["span_id"])
    fields["parent"] = _context(parent, trace_id, fields["parent_id"])
    fields["events"] = [build(Event, *event) for event in events]
    fields["links"] = [_link(*link) for link in links]
    return extra


def _context(plain: Any, trace_id: str, span_id: str | None) -> SpanContext | None:
    if plain is None:
        return None
    return _own_context(trace_id, span_id) if plain is _OWN else build(SpanContext, *plain)


def _link(fields: dict[str, Any], extra: dict[str, Any]) -> Link:
    fields["context"] = build(SpanContext, *fields["context"])
    return build(Link, fields, extra)
