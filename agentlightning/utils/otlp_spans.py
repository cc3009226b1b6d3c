"""OpenTelemetry's wire format of spans into ours: pure translation, no I/O.

Spans are attributed to an attempt by the keys of `LightningResourceAttributes`, on the resource or
on the span itself; the span's own win.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
_MAX_SEQUENCE_ID: Final = 2**53


@dataclass(slots=True)
class ReadSpans:
    """What an export request held."""

    spans: list[Span]
    """Attributed spans; sequence id 0 where the writer gave none."""
    unattributed: int
    """Spans that say no rollout and attempt, or carry invalid ids of their own."""


def read_spans(request: ExportTraceServiceRequest) -> ReadSpans:
    """Translate every span of an export request."""
    found = ReadSpans([], 0)
    for group in request.resource_spans:
        resource = OtelResource(
            attributes=_attributes(group.resource.attributes), schema_url=group.schema_url
        )
        for scope in group.scope_spans:
            for proto in scope.spans:
                span = _read_span(proto, resource)
                if span is None:
                    found.unattributed += 1
                else:
                    found.spans.append(span)
    return found


def _read_span(proto: ProtoSpan, resource: OtelResource) -> Span | None:
    attributes = _attributes(proto.attributes)
    known = {**resource.attributes, **attributes}
    rollout_id = known.get(LightningResourceAttributes.ROLLOUT_ID.value)
    attempt_id = known.get(LightningResourceAttributes.ATTEMPT_ID.value)
    if not (isinstance(rollout_id, str) and isinstance(attempt_id, str)):
        return None
    if not rollout_id or not attempt_id or not _has_valid_ids(proto):
        return None
    context = _context(proto.trace_id, proto.span_id, proto.trace_state)
    parent = _context(proto.trace_id, proto.parent_span_id, "") if proto.parent_span_id else None
    return Span(
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=_sequence_id(known.get(LightningResourceAttributes.SPAN_SEQUENCE_ID.value)),
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=parent.span_id if parent else None,
        name=proto.name,
        status=TraceStatus(
            status_code=_status_code(proto.status.code),
            description=proto.status.message or None,
        ),
        attributes=attributes,
        events=[_event(event) for event in proto.events],
        links=[_link(link) for link in proto.links],
        start_time=convert_timestamp(proto.start_time_unix_nano),
        end_time=convert_timestamp(proto.end_time_unix_nano),
        context=context,
        parent=parent,
        resource=resource,
    )


def _has_valid_ids(proto: ProtoSpan) -> bool:
    return (
        len(proto.trace_id) == _TRACE_ID_BYTES
        and len(proto.span_id) == _SPAN_ID_BYTES
        and len(proto.parent_span_id) in (0, _SPAN_ID_BYTES)
    )


def _status_code(code: int) -> Any:
    return _STATUS_CODES[code] if 0 <= code < len(_STATUS_CODES) else "UNSET"


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
    return SpanContext(
        trace_id=trace_id.hex(),
        span_id=span_id.hex(),
        is_remote=False,
        trace_state={key.strip(): value.strip() for key, _, value in pairs},
    )


def _sequence_id(value: Any) -> int:
    """Return a sequence id given as int or decimal text; 0 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if type(value) is int and 0 < value <= _MAX_SEQUENCE_ID:
        return value
    return 0


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return dict(_flat_pairs(pairs))


def _flat_pairs(pairs: Iterable[KeyValue]) -> Iterator[tuple[str, Any]]:
    """Yield storable attributes; nested ones under dotted keys, null ones not at all."""
    for pair in pairs:
        value = _value(pair.value)
        if value is None:
            continue
        if isinstance(value, dict) or (isinstance(value, list) and not _is_uniform(value)):
            flat = flatten_attributes({pair.key: value})
            yield from ((key, item) for key, item in flat.items() if item is not None)
        else:
            yield pair.key, value


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
