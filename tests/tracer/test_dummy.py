"""The dummy tracer builds spans and keeps none."""

import pytest

from agentlightning.tracer import DummyTracer
from agentlightning.tracer.dummy import DummySpanRecordingContext
from agentlightning.types import TraceStatus


def test_created_span():
    """A created span has no duration, and is OK unless said otherwise."""
    span = DummyTracer().create_span("x", {"a": 1}, timestamp=5.0)
    assert (span.start_time, span.end_time) == (5.0, 5.0)
    assert (span.name, span.attributes, span.status.status_code) == ("x", {"a": 1}, "OK")
    unset = TraceStatus(status_code="UNSET")
    assert DummyTracer().create_span("x", status=unset).status.status_code == "UNSET"


def test_operation():
    """An operation collects attributes and is readable once it has ended."""
    with DummyTracer().operation_context("x", {"a": 1}, start_time=1.0, end_time=3.0) as recording:
        recording.record_attributes({"b": 2})
        with pytest.raises(ValueError, match="not ended"):
            recording.get_recorded_span()
    span = recording.get_recorded_span()
    assert (span.start_time, span.end_time) == (1.0, 3.0)
    assert span.attributes == {"a": 1, "b": 2}
    assert span.status.status_code == "OK"


def test_failing_operation():
    """An exception is recorded as attributes and raised again."""
    recordings = []
    with pytest.raises(KeyError), DummyTracer().operation_context("x") as recording:
        recordings.append(recording)
        raise KeyError("k")
    span = recordings[0].get_recorded_span()
    assert span.status.status_code == "ERROR"
    assert span.attributes["exception.type"] == "KeyError"


def test_finalize_counts_once():
    """The first end is the end."""
    recording = DummySpanRecordingContext("x", {}, 1.0)
    recording.finalize(2.0)
    recording.finalize(9.0)
    assert recording.get_recorded_span().end_time == 2.0


def test_no_trace_context():
    """It has no trace context, and no trace."""
    with pytest.raises(NotImplementedError):
        DummyTracer().trace_context()
    assert DummyTracer().get_last_trace() == []
