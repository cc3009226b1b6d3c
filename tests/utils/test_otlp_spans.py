"""Tests of translating OpenTelemetry's protobuf spans into ours."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList

from agentlightning.utils.otlp import spans_from_proto
from agentlightning.utils.otlp_spans import read_spans


def any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, list):
        return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
    if isinstance(value, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
    return AnyValue() if value is None else AnyValue(string_value=value)


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


IDS = {"agentlightning.rollout_id": "ro-1", "agentlightning.attempt_id": "at-1"}


def export(resource: dict[str, Any], **span: Any) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.schema_url = "https://schema"
    group.resource.attributes.extend(pairs(resource))
    made = group.scope_spans.add().spans.add()
    made.trace_id, made.span_id = b"t" * 16, b"s" * 8
    made.attributes.extend(pairs(span.pop("attributes", {})))
    for name, value in span.items():
        setattr(made, name, value)
    return request


def test_ids_of_the_span_win():
    """A span's own attribution goes before its resource's."""
    own = {"agentlightning.rollout_id": "ro-2"}
    (span,) = read_spans(export(IDS, attributes=own)).spans
    assert (span.rollout_id, span.attempt_id) == ("ro-2", "at-1")
    assert span.resource.attributes == IDS
    assert span.resource.schema_url == "https://schema"
    assert (span.parent, span.parent_id, span.start_time) == (None, None, None)


@pytest.mark.parametrize(
    ("resource", "changes"),
    [
        ({}, {}),
        ({"agentlightning.rollout_id": "ro-1"}, {}),
        ({**IDS, "agentlightning.attempt_id": ""}, {}),
        ({**IDS, "agentlightning.attempt_id": 7}, {}),
        (IDS, {"trace_id": b""}),
        (IDS, {"span_id": b"short"}),
        (IDS, {"parent_span_id": b"x"}),
    ],
)
def test_spans_that_belong_nowhere_are_counted(resource: dict[str, Any], changes: Any):
    """Without valid ids a span is not translated, but counted."""
    found = read_spans(export(resource, **changes))
    assert (found.spans, found.unattributed + found.malformed) == ([], 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(5, 5), ("12", 12), (-1, 0), ("-1", 0), ("x", 0), (True, 0), (1.5, 0), (2**60, 0), ("²", 0)],
)
def test_sequence_ids(given: Any, expected: int):
    """A sequence id is taken as number or text; anything else leaves numbering to the store."""
    resource = {**IDS, "agentlightning.span_sequence_id": given}
    assert read_spans(export(resource)).spans[0].sequence_id == expected


def test_every_kind_of_attribute():
    """Nested values become dotted keys, bytes hexadecimal, and what is empty is left out."""
    attributes = {
        "text": "a",
        "flag": True,
        "number": 3,
        "share": 0.5,
        "odd": float("nan"),
        "raw": b"\x01\xff",
        "ids": [1, 2],
        "none": None,
        "nested": {"a": 1, "b": {"c": "x"}, "gone": None},
        "mixed": [1, "a", {"k": 2}],
        "empty": [],
    }
    (span,) = read_spans(export(IDS, attributes=attributes)).spans
    assert span.attributes == {
        "text": "a",
        "flag": True,
        "number": 3,
        "share": 0.5,
        "odd": "NaN",
        "raw": "01ff",
        "ids": [1, 2],
        "nested.a": 1,
        "nested.b.c": "x",
        "mixed.0": 1,
        "mixed.1": "a",
        "mixed.2.k": 2,
        "empty": [],
    }


def test_trace_state_and_unknown_status():
    """The trace state becomes a dict, and a status code of the future is unset."""
    request = export(IDS, trace_state="a=1, b = 2,junk")
    request.resource_spans[0].scope_spans[0].spans[0].status.code = 9  # type: ignore[assignment]
    (span,) = read_spans(request).spans
    assert span.context is not None
    assert span.context.trace_state == {"a": "1", "b": "2"}
    assert span.status.status_code == "UNSET"


async def test_numbers_can_be_asked_for():
    """An issuer numbers exactly the spans that have no sequence id."""
    asked: list[Any] = []

    async def issue(owners: Any) -> list[int]:
        asked.extend(owners)
        return [41]

    (bare,) = await spans_from_proto(export(IDS), issue)
    numbered = export({**IDS, "agentlightning.span_sequence_id": 3})
    (kept,) = await spans_from_proto(numbered, issue)
    (left,) = await spans_from_proto(export(IDS))
    assert (bare.sequence_id, kept.sequence_id, left.sequence_id) == (41, 3, 0)
    assert asked == [("ro-1", "at-1")]
    assert await spans_from_proto(export({})) == []
