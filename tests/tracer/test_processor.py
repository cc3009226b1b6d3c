"""The processor finds the scope of every span, whichever provider made it."""

from opentelemetry.sdk.trace import TracerProvider

from agentlightning.tracer.processor import (
    AttemptIdGenerator,
    LightningSpanProcessor,
    scoped_context,
)
from agentlightning.tracer.scope import TraceScope, enter_scope


def scope(trace_id=None):
    return TraceScope(object(), "ro-1", "at-1", trace_id)


def test_a_foreign_provider():
    """Spans of somebody else's provider are recorded with this attempt's ids in the resource."""
    processor = LightningSpanProcessor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("theirs")
    mine = scope()
    tracer.start_span("outside").end()
    before = enter_scope(mine)
    tracer.start_span("one").end()
    tracer.start_span("two").end()
    enter_scope(before)
    tracer.start_span("carried", context=scoped_context(mine, keep_parent=False)).end()
    spans = mine.spans()
    assert [s.name for s in spans] == ["one", "two", "carried"]
    assert spans[0].resource is spans[1].resource
    assert spans[0].resource.attributes["agentlightning.rollout_id"] == "ro-1"
    assert spans[0].resource.attributes["telemetry.sdk.language"] == "python"
    assert processor.unattributed == 1
    assert processor.force_flush()
    processor.shutdown()


def test_trace_ids_of_roots():
    """Roots share the attempt's trace id, and are random outside of one."""
    ids = AttemptIdGenerator()
    before = enter_scope(scope(77))
    assert ids.generate_trace_id() == 77
    assert ids.generate_span_id() != ids.generate_span_id()
    enter_scope(before)
    assert ids.generate_trace_id() != ids.generate_trace_id()
