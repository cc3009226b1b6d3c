"""Recordings are readable once, and ended once."""

import pytest
from opentelemetry.sdk.trace import TracerProvider

from agentlightning.tracer.recording import OtelSpanRecordingContext


def start():
    provider = TracerProvider(shutdown_on_exit=False)
    return OtelSpanRecordingContext(provider.get_tracer("x").start_span("work"))


def test_life_of_a_recording():
    """It collects until it ends, and the first end counts."""
    recording = start()
    recording.record_attributes({"a": 1})
    with pytest.raises(ValueError, match="not ended"):
        recording.get_recorded_span()
    recording.finalize(2e9)
    recording.finalize(3e9)
    span = recording.get_recorded_span()
    assert (span.name, span.attributes, span.end_time) == ("work", {"a": 1}, 2e9)
    assert span.status.status_code == "OK"
    assert len(recording.span_id) == 16


def test_a_given_status_stays():
    """An error that was recorded is not overwritten when the span ends."""
    recording = start()
    recording.record_exception(KeyError("k"))
    recording.finalize()
    status = recording.get_recorded_span().status
    assert (status.status_code, status.description) == ("ERROR", "KeyError: 'k'")
