"""Spans as rows: what repeats within a span is left out, and long values are kept apart.

A span's own context follows from its ids, its parent's mostly too. Long attribute values and the
resource are `contents`: the body only names their pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, cast

import orjson

from agentlightning.store.collections.sql.codec import Row, float_columns, keep_odd_numbers
from agentlightning.store.collections.sql.contents import LONG, ContentSink
from agentlightning.store.collections.sql.text import from_text, is_clean, plain, to_text
from agentlightning.store.record import build
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.tracer import Attributes, Event, Link

Load = Callable[[Iterable[str]], Mapping[str, str]]
"""Returns contents by their names."""

_LONG_LIST: Final = LONG // 5
"""Items of a list that is likely to be `LONG` characters as text."""

_PIECES: Final = "~"
"""Where a body keeps the names of pieces: attribute to names, the resource under an empty key."""
_TEXT: Final = "s"
_JSON: Final = "j"

_EMPTY_RESOURCE: Final = OtelResource(attributes={}, schema_url="")


def _own_context(context: SpanContext | None, trace_id: str, span_id: str | None) -> bool:
    """Return whether a context says nothing but these ids."""
    return (
        context is not None
        and context.trace_id == trace_id
        and context.span_id == span_id
        and not context.is_remote
        and not context.trace_state
        and not context.__pydantic_extra__
    )


def _make_context(fields: dict[str, Any]) -> SpanContext:
    known = {name: fields.pop(name) for name in SpanContext.model_fields if name in fields}
    return build(SpanContext, known, fields)


def _ids(trace_id: str, span_id: str) -> SpanContext:
    fields = {"trace_id": trace_id, "span_id": span_id, "is_remote": False, "trace_state": {}}
    return build(SpanContext, fields, {})


def _status(stored: Any) -> TraceStatus:
    if isinstance(stored, str):
        return build(TraceStatus, {"status_code": stored, "description": None}, {})
    return TraceStatus.model_construct(**stored)


def _event(fields: dict[str, Any]) -> Event:
    return Event.model_construct(**fields)


def _link(fields: dict[str, Any]) -> Link:
    context = _make_context(fields.pop("context"))
    return Link.model_construct(context=context, **fields)


def _is_long(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > LONG
    return isinstance(value, list) and len(cast("list[Any]", value)) > _LONG_LIST


def _split(value: Any) -> tuple[str, str] | None:
    """Return kind and text of a long value, or None where only the exact writer can write it."""
    if isinstance(value, str):
        return (_TEXT, value) if is_clean(value) else None
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError):
        return None
    return None if b"null" in text else (_JSON, text.decode())


class SpanCodec:
    """The form of spans in their table.

    Args:
        columns: The fields that are columns, in the table's order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._values: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*self.columns)
        self._floats = float_columns(Span, self.columns)

    def row(self, span: Span, sink: ContentSink) -> tuple[Any, ...]:
        """Return a span's columns and body; its long values go to `sink`."""
        return (*self._values(span.__dict__), self._body(span, sink))

    def _body(self, span: Span, sink: ContentSink) -> str:
        fields = span.__dict__
        body: dict[str, Any] = {}
        pieces: dict[str, list[str]] = {}
        body["attributes"] = self._attributes(span, pieces, sink)
        status = span.status
        plain_status = status.description is None and not status.__pydantic_extra__
        body["status"] = status.status_code if plain_status else plain(status)
        if not _own_context(span.context, span.trace_id, span.span_id):
            body["context"] = span.context or 0
        if span.parent is not None:
            own = _own_context(span.parent, span.trace_id, span.parent_id)
            body["parent"] = 1 if own else span.parent
        if span.events:
            body["events"] = span.events
        if span.links:
            body["links"] = span.links
        if span.resource != _EMPTY_RESOURCE:
            text = to_text(plain(span.resource), "Span")
            pieces[""] = sink.put(span.rollout_id, text)
        if span.__pydantic_extra__:
            body["extra"] = span.__pydantic_extra__
        keep_odd_numbers(self._floats, fields, body)
        if pieces:
            body[_PIECES] = pieces
        return to_text(body, "Span")

    def _attributes(
        self, span: Span, pieces: dict[str, list[str]], sink: ContentSink
    ) -> Attributes:
        """Return the attributes with a 0 in place of each value that is kept apart."""
        attributes = span.attributes
        for key, value in attributes.items():
            if _is_long(value) and key and (split := _split(value)) is not None:
                kind, text = split
                pieces[key] = [kind, *sink.put(span.rollout_id, text)]
        return {**attributes, **dict.fromkeys(pieces, 0)} if pieces else attributes

    def records(self, rows: Sequence[Row], load: Load) -> list[Span]:
        """Return the spans of several rows; `load` is asked at most once."""
        bodies = [from_text(row[-1]) for row in rows]
        needed = {
            name
            for body in bodies
            for key, names in body.get(_PIECES, {}).items()
            for name in (names[1:] if key else names)
        }
        contents = load(needed) if needed else {}
        return [self._span(row, body, contents) for row, body in zip(rows, bodies, strict=True)]

    def _span(self, row: Row, body: dict[str, Any], contents: Mapping[str, str]) -> Span:
        resource = _EMPTY_RESOURCE
        attributes = body["attributes"]
        for key, names in body.pop(_PIECES, {}).items():
            if not key:
                text = "".join([contents[name] for name in names])
                resource = OtelResource.model_construct(**from_text(text))
                continue
            text = "".join([contents[name] for name in names[1:]])
            attributes[key] = text if names[0] == _TEXT else orjson.loads(text)
        fields: dict[str, Any] = dict.fromkeys(Span.model_fields)
        fields.update(zip(self.columns, row, strict=False))
        trace_id = fields["trace_id"]
        context = body.pop("context", 1)
        parent = body.pop("parent", 0)
        fields["status"] = _status(body.pop("status"))
        fields["attributes"] = body.pop("attributes")
        fields["events"] = [_event(event) for event in body.pop("events", ())]
        fields["links"] = [_link(link) for link in body.pop("links", ())]
        if context:
            own = context == 1
            fields["context"] = _ids(trace_id, fields["span_id"]) if own else _make_context(context)
        if parent:
            own = parent == 1
            fields["parent"] = _ids(trace_id, fields["parent_id"]) if own else _make_context(parent)
        fields["resource"] = resource
        extra = body.pop("extra", {})
        # What is left are columns that are NaN.
        fields.update(body)
        return build(Span, fields, extra)


def piece_names(body: str) -> set[str]:
    """Return the names of all contents that a span's body asks for."""
    if f'"{_PIECES}":' not in body:
        return set()
    pieces = from_text(body).get(_PIECES, {})
    return {name for key, names in pieces.items() for name in (names[1:] if key else names)}
