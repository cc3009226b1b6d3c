"""OpenTelemetry's wire format of spans into ours: pure translation, no I/O.

Spans are attributed to an attempt by the keys of `LightningResourceAttributes`, on the resource or
on the span itself; the span's own win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.record import build
from agentlightning.semconv import LightningResourceAttributes
from agentlightning.types.tracer import (
    Attributes,
    Event,
    Link,
    OtelResource,
    Span,
    SpanContext,
    TraceStatus,
    convert_timestamp,
)
from agentlightning.utils.attributes import flatten_attributes

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

__all__ = ["ReadSpans", "read_spans"]

_STATUS_CODES: Final = ("UNSET", "OK", "ERROR")
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_NO_TRACE_ID: Final = bytes(_TRACE_ID_BYTES)
_NO_SPAN_ID: Final = bytes(_SPAN_ID_BYTES)
_MAX_SEQUENCE_ID: Final = 2**53
_PLAIN_KINDS: Final = frozenset({"string_value", "int_value", "bool_value"})
_ROLLOUT_ID: Final = LightningResourceAttributes.ROLLOUT_ID.value
_ATTEMPT_ID: Final = LightningResourceAttributes.ATTEMPT_ID.value
_SEQUENCE_ID: Final = LightningResourceAttributes.SPAN_SEQUENCE_ID.value


@dataclass(slots=True)
class ReadSpans:
    """What an export request held."""

    spans: list[Span]
    """Attributed spans; sequence id 0 where the writer gave none."""
    unattributed: int = 0
    """Spans that say no rollout and attempt."""
    malformed: int = 0
    """Spans whose trace or span ids are none."""


@dataclass(frozen=True, slots=True)
class _Group:
    """What the spans of one resource have in common."""

    resource: OtelResource
    rollout_id: Any
    attempt_id: Any
    sequence_id: int


def read_spans(request: ExportTraceServiceRequest) -> ReadSpans:
    """Translate every span of an export request."""
    found = ReadSpans([])
    for group in request.resource_spans:
        attributes = _attributes(group.resource.attributes)
        common = _Group(
            build(OtelResource, {"attributes": attributes, "schema_url": group.schema_url}),
            attributes.get(_ROLLOUT_ID),
            attributes.get(_ATTEMPT_ID),
            _sequence_id(attributes.get(_SEQUENCE_ID)),
        )
        for scope in group.scope_spans:
            for proto in scope.spans:
                _read_span(proto, common, found)
    return found


def _read_span(proto: ProtoSpan, common: _Group, found: ReadSpans) -> None:
    attributes = _attributes(proto.attributes)
    rollout_id = attributes.get(_ROLLOUT_ID, common.rollout_id)
    attempt_id = attributes.get(_ATTEMPT_ID, common.attempt_id)
    if not (isinstance(rollout_id, str) and isinstance(attempt_id, str)):
        found.unattributed += 1
        return
    if not rollout_id or not attempt_id:
        found.unattributed += 1
        return
    trace_id, span_id, parent_id = proto.trace_id, proto.span_id, proto.parent_span_id
    if not _are_ids(trace_id, span_id, parent_id):
        found.malformed += 1
        return
    context = _context(trace_id, span_id, proto.trace_state)
    parent = _context(trace_id, parent_id, "") if parent_id else None
    number = attributes.get(_SEQUENCE_ID)
    # Perf: what protobuf has decoded has the right types, so nothing is validated again.
    fields = {
        "rollout_id": rollout_id,
        "attempt_id": attempt_id,
        "sequence_id": common.sequence_id if number is None else _sequence_id(number),
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_id": parent.span_id if parent is not None else None,
        "name": proto.name,
        "status": _status(proto),
        "attributes": attributes,
        "events": [_event(event) for event in proto.events],
        "links": [_link(link) for link in proto.links],
        "start_time": convert_timestamp(proto.start_time_unix_nano),
        "end_time": convert_timestamp(proto.end_time_unix_nano),
        "context": context,
        "parent": parent,
        "resource": common.resource,
    }
    found.spans.append(build(Span, fields, {}))


def _are_ids(trace_id: bytes, span_id: bytes, parent_id: bytes) -> bool:
    return (
        len(trace_id) == _TRACE_ID_BYTES
        and len(span_id) == _SPAN_ID_BYTES
        and len(parent_id) in (0, _SPAN_ID_BYTES)
        and trace_id != _NO_TRACE_ID
        and span_id != _NO_SPAN_ID
    )


def _status(proto: ProtoSpan) -> TraceStatus:
    if not proto.HasField("status"):
        return build(TraceStatus, {"status_code": "UNSET", "description": None}, {})
    code: Any = proto.status.code
    name = _STATUS_CODES[code] if 0 <= code < len(_STATUS_CODES) else "UNSET"
    description = proto.status.message or None
    return build(TraceStatus, {"status_code": name, "description": description}, {})


def _event(proto: ProtoSpan.Event) -> Event:
    return Event(
        name=proto.name,
        attributes=_attributes(proto.attributes),
        timestamp=convert_timestamp(proto.time_unix_nano),
    )


def _link(proto: ProtoSpan.Link) -> Link:
    return Link(
        context=_context(proto.trace_id, proto.span_id, proto.trace_state),
        attributes=_attributes(proto.attributes) or None,
    )


def _context(trace_id: bytes, span_id: bytes, trace_state: str) -> SpanContext:
    pairs = (entry.partition("=") for entry in trace_state.split(",") if "=" in entry)
    fields = {
        "trace_id": trace_id.hex(),
        "span_id": span_id.hex(),
        "is_remote": False,
        "trace_state": {key.strip(): value.strip() for key, _, value in pairs}
        if trace_state
        else {},
    }
    return build(SpanContext, fields, {})


def _sequence_id(value: Any) -> int:
    """Return a sequence id given as int or decimal text; 0 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if type(value) is int and 0 < value <= _MAX_SEQUENCE_ID:
        return value
    return 0


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    """Return storable attributes; nested ones under dotted keys, null ones not at all."""
    attributes: Attributes = {}
    for pair in pairs:
        proto = pair.value
        # Perf: most values are texts, and asking which kind a value is costs as much as reading it.
        text = proto.string_value
        if text:
            attributes[pair.key] = text
            continue
        kind = proto.WhichOneof("value")
        if kind in _PLAIN_KINDS:
            attributes[pair.key] = getattr(proto, kind)
            continue
        value = _value(proto)
        if value is None:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and not _is_uniform(value)):
            flat = flatten_attributes({pair.key: value})
            attributes.update((key, item) for key, item in flat.items() if item is not None)
        else:
            attributes[pair.key] = value
    return attributes


def _is_uniform(values: Sequence[Any]) -> bool:
    kinds = {type(value) for value in values}
    return not kinds or (len(kinds) == 1 and kinds <= {str, int, float, bool})


def _value(proto: AnyValue) -> Any:
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    value = getattr(proto, kind)
    if kind == "array_value":
        return [_value(item) for item in value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.values}
    if kind == "bytes_value":
        return value.hex()
    if kind == "double_value" and not math.isfinite(value):
        # JSON has no such number; its name keeps the oddity visible.
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
