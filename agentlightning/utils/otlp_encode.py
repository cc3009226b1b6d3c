"""Our spans in OpenTelemetry's wire format: the reverse of `otlp_spans`, pure translation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from agentlightning.semconv import LightningResourceAttributes

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

    from agentlightning.types.tracer import Event, Link, Span

__all__ = ["encode_spans"]

SCOPE_NAME: Final = "agentlightning"
_KIND_INTERNAL: Final = 1
_STATUS_CODES: Final = {"UNSET": 0, "OK": 1, "ERROR": 2}
_MAX_INT64: Final = 2**63 - 1
_MAX_NANOSECONDS: Final = 2**64 - 1


def encode_spans(spans: Sequence[Span]) -> ExportTraceServiceRequest:
    """Return an export request; a store that takes it has the same spans again.

    Rollout, attempt and sequence id travel as attributes of each span. Trace and span ids that
    are not of OpenTelemetry's form are replaced by ones that are derived from them.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )

    request = ExportTraceServiceRequest()
    scopes: dict[str, ScopeSpans] = {}
    for span in spans:
        key = repr((span.resource.attributes, span.resource.schema_url))
        scope = scopes.get(key)
        if scope is None:
            group = request.resource_spans.add()
            group.schema_url = span.resource.schema_url
            _fill(group.resource.attributes, span.resource.attributes)
            scope = scopes[key] = group.scope_spans.add()
            scope.scope.name = SCOPE_NAME
        _encode(span, scope.spans.add())
    return request


def _encode(span: Span, proto: ProtoSpan) -> None:
    proto.trace_id = _id(span.trace_id, 16)
    proto.span_id = _id(span.span_id, 8)
    if span.parent_id:
        proto.parent_span_id = _id(span.parent_id, 8)
    if span.context is not None and span.context.trace_state:
        proto.trace_state = ",".join(f"{k}={v}" for k, v in span.context.trace_state.items())
    proto.name = span.name
    proto.kind = cast("Any", _KIND_INTERNAL)
    proto.start_time_unix_nano = _nanoseconds(span.start_time)
    proto.end_time_unix_nano = _nanoseconds(span.end_time)
    proto.status.code = cast("Any", _STATUS_CODES[span.status.status_code])
    proto.status.message = span.status.description or ""
    own: dict[str, Any] = {
        LightningResourceAttributes.ROLLOUT_ID.value: span.rollout_id,
        LightningResourceAttributes.ATTEMPT_ID.value: span.attempt_id,
        LightningResourceAttributes.SPAN_SEQUENCE_ID.value: span.sequence_id,
    }
    _fill(proto.attributes, {**span.attributes, **own})
    for event in span.events:
        _encode_event(event, proto.events.add())
    for link in span.links:
        _encode_link(link, proto.links.add())


def _encode_event(event: Event, proto: ProtoSpan.Event) -> None:
    proto.name = event.name
    proto.time_unix_nano = _nanoseconds(event.timestamp)
    _fill(proto.attributes, event.attributes)


def _encode_link(link: Link, proto: ProtoSpan.Link) -> None:
    proto.trace_id = _id(link.context.trace_id, 16)
    proto.span_id = _id(link.context.span_id, 8)
    proto.trace_state = ",".join(f"{k}={v}" for k, v in link.context.trace_state.items())
    _fill(proto.attributes, link.attributes or {})


def _id(text: str, size: int) -> bytes:
    """Return an id as OpenTelemetry's bytes."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    return raw if len(raw) == size else hashlib.sha256(text.encode()).digest()[:size]


def _nanoseconds(seconds: float | None) -> int:
    # Why: a product of today's seconds and 1e9 has no exact nanoseconds.
    fraction, whole = math.modf(max(0.0, seconds or 0.0))
    return min(int(whole) * 10**9 + round(fraction * 1e9), _MAX_NANOSECONDS)


def _fill(pairs: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        pair: KeyValue = pairs.add()
        pair.key = _text(name)
        _set(pair.value, value)


def _set(proto: AnyValue, value: Any) -> None:
    if isinstance(value, bool):
        proto.bool_value = value
    elif isinstance(value, int) and -_MAX_INT64 <= value <= _MAX_INT64:
        proto.int_value = value
    elif isinstance(value, float):
        proto.double_value = value
    elif isinstance(value, (list, tuple)):
        # Reading the field makes an empty list distinct from no value.
        proto.array_value.SetInParent()
        for item in cast("Iterable[Any]", value):
            _set(proto.array_value.values.add(), item)
    else:
        proto.string_value = _text(str(value))


def _text(text: str) -> str:
    """Return text that UTF-8 can hold; lone surrogates, which models produce, are replaced."""
    return text.encode("utf-8", "replace").decode()
