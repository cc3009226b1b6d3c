"""Messages are emitted and read back."""

import logging

import pytest

from agentlightning.emitter import emit_message, get_message_value
from agentlightning.tracer.otel import OtelTracer
from tests.support.spans import make_span


def test_message(monkeypatch, caplog):
    """A text and its attributes are one span with its status unset; it can be logged."""
    monkeypatch.setenv("AGL_EMITTER_DEBUG", "1")
    tracer = OtelTracer()
    with (
        caplog.at_level(logging.DEBUG, "agentlightning.emitter"),
        tracer.lifespan(),
        tracer._trace_context_sync(),
    ):
        emit_message("hello", {"a": {"b": 1}})
    (span,) = tracer.get_last_trace()
    assert span.name == "agentlightning.message"
    assert get_message_value(span) == "hello"
    assert span.attributes["a.b"] == 1
    assert span.status.status_code == "UNSET"
    assert [r.__dict__["span_name"] for r in caplog.records] == ["agentlightning.message"]


def test_other_values_are_refused():
    """Only strings are messages, and only message spans have one."""
    with pytest.raises(TypeError, match="emit_object"):
        emit_message(3, propagate=False)
    assert get_message_value(make_span("a")) is None
