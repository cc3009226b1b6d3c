"""Exceptions that the agent survived are emitted."""

import pytest

from agentlightning.emitter import emit_exception
from agentlightning.tracer.otel import OtelTracer


def test_exception():
    """Type, message and stack are attributes; the span itself is OK."""
    tracer = OtelTracer()
    with tracer.lifespan(), tracer._trace_context_sync():
        try:
            raise KeyError("lost")
        except KeyError as error:
            emit_exception(error, {"where": "here"})
    (span,) = tracer.get_last_trace()
    assert span.name == "agentlightning.exception"
    assert span.status.status_code == "OK"
    assert span.attributes["exception.type"] == "KeyError"
    assert span.attributes["exception.message"] == "'lost'"
    assert "test_exception" in str(span.attributes["exception.stacktrace"])
    assert span.attributes["where"] == "here"


def test_other_values_are_refused():
    """Only exceptions can be emitted as such."""
    with pytest.raises(TypeError, match="str"):
        emit_exception("oops", propagate=False)
