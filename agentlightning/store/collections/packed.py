"""Spans as they are kept in memory: what is filtered by stays readable, the rest becomes bytes.

A span of six attributes takes about 0.7 KB this way, an eighth of the model. The bytes are written
by `marshal`, which keeps every value exactly (NaN, int or float, lone surrogates); they are read
by the process that wrote them and never leave it.
"""

from __future__ import annotations

import marshal
from typing import Any, Final, Protocol, TypeVar, cast

from pydantic import BaseModel

from agentlightning.store.record import build
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus

T = TypeVar("T")

_FORMAT: Final = 2
"""Without back references, which cost more than they save in so little data."""
_OVERHEAD: Final = 480
"""Bytes of the object, its texts and numbers, and its places in the table."""
_SCALARS: Final = frozenset[type]({str, int, float, bool, type(None)})
_OWN: Final = True
"""Stands for the context that follows from the span's own ids."""


class Shared(Protocol):
    """Where equal values become one object: `shared.setdefault(value, value)`."""

    def setdefault(self, key: T, default: T, /) -> T:
        """Return the value that is kept, which is the given one if there was none."""
        ...


class PackedSpan:
    """One span; fields that have no attribute here are unpacked when asked for."""

    __slots__ = (
        "_resource",
        "_rest",
        "attempt_id",
        "end_time",
        "name",
        "parent_id",
        "rollout_id",
        "sequence_id",
        "span_id",
        "start_time",
        "trace_id",
    )

    def __init__(self, span: Span, shared: Shared) -> None:
        """Pack a span; a value that cannot be packed keeps the whole span as it is."""
        self.rollout_id = span.rollout_id
        self.attempt_id = span.attempt_id
        self.sequence_id = span.sequence_id
        self.span_id = span.span_id
        self.parent_id = span.parent_id
        self.start_time = span.start_time
        self.end_time = span.end_time
        self.name = shared.setdefault(span.name, span.name)
        self.trace_id = shared.setdefault(span.trace_id, span.trace_id)
        self._resource = b""
        self._rest: bytes | Span = span
        if type(span) is Span:
            try:
                resource = marshal.dumps(_exact(_plain(span.resource)), _FORMAT)
                self._rest = _pack(span)
            except (ValueError, AttributeError, KeyError):
                # Numbers of numpy and the like, which only models that were not validated hold.
                return
            self._resource = shared.setdefault(resource, resource)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.span(), name)

    @property
    def size(self) -> int:
        """About how many bytes the span takes, without its resource, which many share."""
        return len(self._rest) + _OVERHEAD if isinstance(self._rest, bytes) else 8 * _OVERHEAD

    def span(self, resources: dict[bytes, OtelResource] | None = None) -> Span:
        """Return the span, equal to the one that was packed.

        Args:
            resources: Unpacked before for the same reader, who gets each of them once.
        """
        if not isinstance(self._rest, bytes):
            return self._rest
        attributes, others = marshal.loads(self._rest)
        status, context, parent, events, links, extra = others
        if resources is None:
            resources = {}
        resource = resources.get(self._resource)
        if resource is None:
            resource = build(OtelResource, *marshal.loads(self._resource))
            resources[self._resource] = resource
        trace_id = self.trace_id
        fields = {
            "rollout_id": self.rollout_id,
            "attempt_id": self.attempt_id,
            "sequence_id": self.sequence_id,
            "trace_id": trace_id,
            "span_id": self.span_id,
            "parent_id": self.parent_id,
            "name": self.name,
            "status": _status(status),
            "attributes": attributes,
            "events": [build(Event, *event) for event in events or ()],
            "links": [_link(*link) for link in links or ()],
            "start_time": self.start_time,
            "end_time": self.end_time,
            "context": _context(context, trace_id, self.span_id),
            "parent": _context(parent, trace_id, self.parent_id),
            "resource": resource,
        }
        return build(Span, fields, extra or {})


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


def _own_context(trace_id: str, span_id: str) -> dict[str, Any]:
    return {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": {}}


def _plain(model: BaseModel) -> tuple[dict[str, Any], dict[str, Any] | None]:
    return vars(model), model.__pydantic_extra__


def _plain_context(context: SpanContext | None, trace_id: str, span_id: str | None) -> Any:
    if context is None:
        return None
    fields, extra = _plain(context)
    # `is False`, because 0 would come back as another value.
    own = fields["is_remote"] is False and not fields["trace_state"] and not extra
    if own and fields["span_id"] == span_id and fields["trace_id"] == trace_id:
        return _OWN
    return fields, extra


def _plain_link(link: Link) -> Any:
    fields, extra = _plain(link)
    return {**fields, "context": _plain(link.context)}, extra


def _pack(span: Span) -> bytes:
    status = span.status
    bare = status.description is None and not status.__pydantic_extra__
    # Usually all of these are scalars, so that checking them is one look.
    others = (
        status.status_code if bare else _plain(status),
        _plain_context(span.context, span.trace_id, span.span_id),
        _plain_context(span.parent, span.trace_id, span.parent_id),
        [_plain(event) for event in span.events] if span.events else None,
        [_plain_link(link) for link in span.links] if span.links else None,
        span.__pydantic_extra__ or None,
    )
    return marshal.dumps((_exact(span.attributes), _exact(others)), _FORMAT)


def _status(plain: Any) -> TraceStatus:
    if type(plain) is str:
        return build(TraceStatus, {"status_code": plain, "description": None}, {})
    return build(TraceStatus, *plain)


def _context(plain: Any, trace_id: str, span_id: str | None) -> SpanContext | None:
    if plain is None:
        return None
    if plain is _OWN:
        return build(SpanContext, _own_context(trace_id, cast("str", span_id)), {})
    return build(SpanContext, *plain)


def _link(fields: dict[str, Any], extra: dict[str, Any]) -> Link:
    fields["context"] = build(SpanContext, *fields["context"])
    return build(Link, fields, extra)
