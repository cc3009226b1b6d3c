"""Spans on the wire, fast: in both directions without pydantic where nothing is unusual.

Numbers that JSON cannot hold are written as the strings `NaN`, `Infinity` and `-Infinity`, and
`NON_FINITE_FIELD` beside the attributes names those that were numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

from agentlightning._internal.record import build
from agentlightning.store.http.errors import UnprocessableError
from agentlightning.store.http.wire import MAX_INTEGER, encode, plain_fields
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus

__all__ = [
    "NON_FINITE_FIELD",
    "AnsweredSpans",
    "encode_spans",
    "span_from_wire",
    "span_to_wire",
]

NON_FINITE_FIELD: Final = "non_finite_attributes"

_SCALARS: Final = frozenset({str, int, float, bool})
_TIMES: Final = frozenset({float, int, type(None)})
_TEXTS: Final = ("rollout_id", "attempt_id", "trace_id", "span_id", "name")
_SPAN_KEYS: Final = frozenset(Span.model_fields)
_CONTEXT_KEYS: Final = frozenset(SpanContext.model_fields)
_STATUS_KEYS: Final = frozenset(TraceStatus.model_fields)
_RESOURCE_KEYS: Final = frozenset(OtelResource.model_fields)
_STATUS_CODES: Final = ("UNSET", "OK", "ERROR")


def encode_spans(spans: Sequence[Span]) -> bytes:
    """Return the JSON list of spans as `span_from_wire` reads its items."""
    return encode([span_to_wire(span) for span in spans])


def span_to_wire(span: Span) -> dict[str, Any]:
    """Return what `encode` takes for a span; NaN and infinities are spelled out in it."""
    odd: dict[str, Any] = {}
    for key, value in span.attributes.items():
        if type(value) is float:
            if not math.isfinite(value):
                odd[key] = _number_name(value)
        elif type(value) is list and value and type(value[0]) is float:
            numbers = cast("list[float]", value)
            # A sum shows an odd number among thousands in a microsecond.
            if not math.isfinite(sum(numbers)):
                odd[key] = [_number_name(number) for number in numbers]
    fields = {
        **plain_fields(span),
        # Perf: `encode` would come back for each of them, which takes twice as long.
        "status": plain_fields(span.status),
        "resource": plain_fields(span.resource),
    }
    if span.context is not None:
        fields["context"] = plain_fields(span.context)
    if span.parent is not None:
        fields["parent"] = plain_fields(span.parent)
    if odd:
        fields["attributes"] = {**span.attributes, **odd}
        fields[NON_FINITE_FIELD] = [*odd]
    return fields


def _number_name(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


class AnsweredSpans:
    """Reads the spans of one answer, whose values are taken as they are.

    Spans of equal resources share one object. The raw spans are used up.
    """

    def __init__(self) -> None:
        self._raw: Any = None
        self._resource: OtelResource | None = None

    def __call__(self, raw: dict[str, Any]) -> Span:
        """Return a span that a store has sent."""
        if raw.keys() != _SPAN_KEYS or raw["events"] or raw["links"]:
            return span_from_wire(raw)
        resource = self._resource if raw["resource"] == self._raw else None
        given = raw["resource"]
        span = _built(raw, resource)
        if span is None:
            return span_from_wire(raw)
        if resource is None:
            self._raw, self._resource = given, span.resource
        return span


def _built(raw: dict[str, Any], known_resource: OtelResource | None = None) -> Span | None:
    """Return a span that keeps these very fields; None if a part of it has unusual ones."""
    status, resource = raw["status"], raw["resource"]
    context, parent = raw["context"], raw["parent"]
    if status.keys() != _STATUS_KEYS or resource.keys() != _RESOURCE_KEYS:
        return None
    if context is not None and context.keys() != _CONTEXT_KEYS:
        return None
    if parent is not None and parent.keys() != _CONTEXT_KEYS:
        return None
    raw["status"] = build(TraceStatus, status, {})
    raw["resource"] = known_resource or build(OtelResource, resource)
    if context is not None:
        raw["context"] = build(SpanContext, context, {})
    if parent is not None:
        raw["parent"] = build(SpanContext, parent, {})
    return build(Span, raw, {})


def _is_usual(raw: dict[str, Any]) -> bool:
    """Return whether a span can be stored as it is: every part there, and of the exact type."""
    for name in _TEXTS:
        if type(raw[name]) is not str:
            return False
    parent_id, status, resource = raw["parent_id"], raw["status"], raw["resource"]
    return (
        type(raw["sequence_id"]) is int
        and (parent_id is None or type(parent_id) is str)
        and type(raw["start_time"]) in _TIMES
        and type(raw["end_time"]) in _TIMES
        and type(status) is dict
        and status.get("status_code") in _STATUS_CODES
        and type(status.get("description", 0)) in (str, type(None))
        and type(resource) is dict
        and type(resource.get("schema_url")) is str
        and _are_attributes(resource.get("attributes"))
        and _are_attributes(raw["attributes"])
        and _is_context(raw["context"])
        and _is_context(raw["parent"])
    )


def _are_attributes(value: Any) -> bool:
    if type(value) is not dict:
        return False
    for item in cast("dict[str, Any]", value).values():
        if type(item) not in _SCALARS and not _is_plain_list(item):
            return False
    return True


def _is_context(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not dict or value.keys() != _CONTEXT_KEYS:
        return False
    state = value["trace_state"]
    return (
        type(value["trace_id"]) is str
        and type(value["span_id"]) is str
        and type(value["is_remote"]) is bool
        and type(state) is dict
        and all(type(item) is str for item in state.values())
    )


def span_from_wire(raw: Any) -> Span:
    """Return a validated span; attributes that are null are left out, as OpenTelemetry does.

    Raises:
        ValidationError: A field is missing or of the wrong type.
        UnprocessableError: The sequence id is out of range.
    """
    if type(raw) is dict and NON_FINITE_FIELD in raw:
        raw = _with_odd_numbers(cast("dict[str, Any]", raw))
    span = _usual_span(raw) or _validated_span(raw)
    if not 0 <= span.sequence_id <= MAX_INTEGER:
        raise UnprocessableError(
            f"sequence_id is {span.sequence_id}: give 0 to let the store number the span, "
            "or a positive number."
        )
    return span


def _usual_span(raw: Any) -> Span | None:
    # Perf: 5 µs instead of 60; what is refused here is looked at, and explained, by pydantic.
    if type(raw) is not dict or raw.keys() != _SPAN_KEYS or raw["events"] or raw["links"]:
        return None
    if type(raw["events"]) is not list or type(raw["links"]) is not list or not _is_usual(raw):
        return None
    for name in ("start_time", "end_time"):
        if type(raw[name]) is int:
            raw[name] = float(raw[name])
    return _built(cast("dict[str, Any]", raw))


def _with_odd_numbers(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a raw span with the numbers that `span_to_wire` had spelled out."""
    restored = {key: value for key, value in raw.items() if key != NON_FINITE_FIELD}
    names, attributes = raw[NON_FINITE_FIELD], raw.get("attributes")
    if not isinstance(names, list) or not isinstance(attributes, dict):
        raise UnprocessableError(f"{NON_FINITE_FIELD} must list keys of attributes.")
    restored["attributes"] = attributes = dict(cast("dict[str, Any]", attributes))
    try:
        for name in cast("list[str]", names):
            value = attributes[name]
            attributes[name] = [*map(float, value)] if type(value) is list else float(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UnprocessableError(f"{NON_FINITE_FIELD} names no number: {error}.") from error
    return restored


def _validated_span(raw: Any) -> Span:
    if type(raw) is dict and raw.get("events"):
        raw = {**raw, "events": _without_nulls(raw["events"])}
    attributes = raw.get("attributes") if type(raw) is dict else None
    if type(attributes) is not dict:
        return Span.model_validate(raw)
    # Perf: pydantic tries each member of the attribute union on each list, which takes 1 ms for
    # a captured call of 2,000 tokens; with its lists checked here the call takes 60 µs.
    lists = {key: value for key, value in attributes.items() if _is_plain_list(value)}
    if not lists and None not in attributes.values():
        return Span.model_validate(raw)
    rest = {k: v for k, v in attributes.items() if v is not None and k not in lists}
    span = Span.model_validate({**raw, "attributes": rest})
    checked = {**span.attributes, **lists}
    span.attributes = {key: checked[key] for key in attributes if key in checked}
    return span


def _without_nulls(events: Any) -> Any:
    """Return raw events without null attributes, which is also what NaN becomes in them."""
    if type(events) is not list:
        return events
    return [
        {**event, "attributes": {k: v for k, v in event["attributes"].items() if v is not None}}
        if type(event) is dict and type(event.get("attributes")) is dict
        else event
        for event in cast("list[Any]", events)
    ]


def _is_plain_list(value: Any) -> bool:
    if type(value) is not list:
        return False
    kinds = set(map(type, cast("list[Any]", value)))
    return not kinds or (len(kinds) == 1 and kinds <= _SCALARS)
