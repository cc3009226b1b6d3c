"""Spans: made from attributes, and translated from OpenTelemetry."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link, Status, StatusCode

from agentlightning.types import Span, SpanCoreFields, TraceStatus, convert_timestamp


def otel_spans() -> tuple[ReadableSpan, ReadableSpan]:
    """Return a finished parent and child, with an event, a link and an error."""
    tracer = TracerProvider(resource=Resource.create({"service.name": "s"})).get_tracer("t")
    with tracer.start_as_current_span("parent") as parent:
        link = Link(parent.get_span_context(), {"why": "because"})
        with tracer.start_as_current_span("child", links=[link]) as child:
            child.set_attributes({"list": ["a", "b"], "number": 1.5})
            child.add_event("event", {"k": "v"}, timestamp=2_000_000_000_000_000_000)
            child.set_status(Status(StatusCode.ERROR, "broke"))
    return parent, child


def test_opentelemetry_span_keeps_everything():
    """Identity, parent, times, status, attributes, events, links and resource are translated."""
    parent, child = otel_spans()
    span = Span.from_opentelemetry(child, "ro-1", "at-1", 3)
    assert (span.rollout_id, span.attempt_id, span.sequence_id) == ("ro-1", "at-1", 3)
    assert span.trace_id == f"{child.get_span_context().trace_id:032x}"
    assert span.parent_id == f"{parent.get_span_context().span_id:016x}"
    assert span.parent is not None
    assert span.parent.trace_id == span.trace_id
    assert span.status == TraceStatus(status_code="ERROR", description="broke")
    assert span.attributes == {"list": ["a", "b"], "number": 1.5}
    assert span.events[0].timestamp == 2e9
    assert span.links[0].attributes == {"why": "because"}
    assert span.start_time == pytest.approx(child.start_time / 1e9)
    assert span.resource.attributes["service.name"] == "s"
    assert Span.model_validate_json(span.model_dump_json()) == span


def test_root_span_has_no_parent():
    """A span without a parent says so."""
    parent, _ = otel_spans()
    span = Span.from_opentelemetry(parent, "ro-1", "at-1", 0)
    assert span.parent_id is None
    assert span.parent is None


def test_unknown_public_attributes_are_kept_as_json():
    """What a library hangs on its span is not lost, even if it is not JSON."""
    _, child = otel_spans()
    child.extra = {"when": object}
    span = Span.from_opentelemetry(child, "ro-1", "at-1", 0)
    assert "object" in json.loads(span.model_dump_json())["extra"]["when"]


def test_span_from_attributes_invents_what_is_missing():
    """Ids are fresh, the name is virtual, the status is OK."""
    first, second = (Span.from_attributes(attributes={"k": 1}) for _ in range(2))
    assert first.span_id != second.span_id
    assert first.trace_id != second.trace_id
    assert (first.name, first.sequence_id) == ("agentlightning.virtual", 0)
    assert first.status.status_code == "OK"
    child = Span.from_attributes(attributes={}, parent_id=first.span_id, trace_id=first.trace_id)
    assert child.parent is not None
    assert child.parent.span_id == first.span_id


def test_core_span_gets_an_identity_and_a_start():
    """A core span without a start time starts now."""
    core = SpanCoreFields(
        name="n",
        status=TraceStatus(status_code="UNSET"),
        attributes={"a": True},
        start_time=None,
        end_time=None,
    )
    span = Span.from_core_fields(core, rollout_id="ro-1", attempt_id="at-1", sequence_id=2)
    assert span.start_time is not None
    assert span.start_time > 1e9
    assert (span.name, span.attributes, span.status.status_code) == ("n", {"a": True}, "UNSET")


@given(st.integers(min_value=1, max_value=4_000_000_000))
def test_times_are_seconds_whatever_they_came_in(seconds: int):
    """Seconds stay seconds, and nanoseconds of a real date become seconds."""
    assert convert_timestamp(float(seconds)) == seconds
    if seconds > 1_000:
        assert convert_timestamp(seconds * 10**9) == pytest.approx(seconds)


def test_no_time_is_none():
    """Zero and None both mean that there is no time."""
    assert convert_timestamp(0) is None
    assert convert_timestamp(None) is None
