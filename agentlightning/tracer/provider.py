"""The tracer provider that all tracers of this process share, and how it reaches libraries."""

import threading

from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from agentlightning.tracer.processor import AttemptIdGenerator, LightningSpanProcessor
from agentlightning.utils.providers import get_span_processors

__all__ = ["shared_provider"]


class _Shared:
    """Libraries are instrumented once per process, so there is one provider for all tracers;
    which tracer and attempt a span is for travels in context.
    """

    lock = threading.Lock()
    provider: TracerProvider | None = None


def shared_provider() -> TracerProvider:
    """Return the process's provider, made on the first call.

    It becomes OpenTelemetry's global one if there is none, so that instrumented libraries reach
    us; where there is one of somebody else's, we listen to that too.
    """
    with _Shared.lock:
        if _Shared.provider is None:
            _Shared.provider = _make_provider()
        _reach_global_provider(_Shared.provider)
        return _Shared.provider


def _make_provider() -> TracerProvider:
    # Why unlimited: the SDK silently drops what exceeds 128 attributes or events per span.
    unlimited = SpanLimits.UNSET
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        id_generator=AttemptIdGenerator(),
        shutdown_on_exit=False,
        span_limits=SpanLimits(
            max_attributes=unlimited,
            max_events=unlimited,
            max_links=unlimited,
            max_span_attributes=unlimited,
            max_event_attributes=unlimited,
            max_link_attributes=unlimited,
            max_attribute_length=unlimited,
            max_span_attribute_length=unlimited,
        ),
    )
    provider.add_span_processor(LightningSpanProcessor())
    return provider


def _reach_global_provider(provider: TracerProvider) -> None:
    """Take the place of OpenTelemetry's global provider, or listen to the one that is there."""
    current = otel_trace.get_tracer_provider()
    if isinstance(current, otel_trace.ProxyTracerProvider):
        otel_trace.set_tracer_provider(provider)
    elif isinstance(current, TracerProvider) and not get_span_processors(
        current, LightningSpanProcessor
    ):
        current.add_span_processor(LightningSpanProcessor())
