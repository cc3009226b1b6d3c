"""The bridge from OpenTelemetry: which scope a span belongs to, and its translation into ours.

A processor holds no state about rollouts. A span belongs to the scope of the context in which it
started, so one processor serves every tracer, thread and event loop of the process.
"""

import threading
import weakref
from typing import TYPE_CHECKING, cast

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from agentlightning.semconv import LightningResourceAttributes
from agentlightning.tracer.scope import TraceScope, current_scope
from agentlightning.types.tracer import OtelResource, Span

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace import Span as SdkSpan

__all__ = ["AttemptIdGenerator", "LightningSpanProcessor", "scoped_context"]

_SCOPE_KEY = otel_context.create_key("agentlightning-scope")
_random_ids = RandomIdGenerator()


def scoped_context(scope: TraceScope, *, keep_parent: bool) -> "Context":
    """Return an OpenTelemetry context that carries `scope`.

    Args:
        scope: The scope.
        keep_parent: Whether spans become children of the current span; if not, they are roots.
    """
    context = otel_context.set_value(_SCOPE_KEY, scope)
    if keep_parent:
        return context
    return otel_trace.set_span_in_context(otel_trace.INVALID_SPAN, context)


class AttemptIdGenerator(IdGenerator):
    """Gives all root spans of one attempt the trace id that the whole attempt shares."""

    def generate_span_id(self) -> int:
        return _random_ids.generate_span_id()

    def generate_trace_id(self) -> int:
        scope = current_scope()
        if scope is None or scope.trace_id is None:
            return _random_ids.generate_trace_id()
        return scope.trace_id


class LightningSpanProcessor(SpanProcessor):
    """Hands every ended span to the trace scope in which it started."""

    def __init__(self) -> None:
        # Values are weak, and a live span holds its scope itself: a span that never ends keeps
        # nothing here once it is gone.
        self._started: weakref.WeakValueDictionary[int, TraceScope] = weakref.WeakValueDictionary()
        self._count_lock = threading.RLock()
        self.unattributed = 0
        """Spans that started outside of every trace context, and were ignored."""

    def on_start(self, span: "SdkSpan", parent_context: "Context | None" = None) -> None:
        """Remember the scope: that of an explicit parent context, else the current one."""
        scope = current_scope()
        if parent_context is not None:
            scope = cast("TraceScope | None", parent_context.get(_SCOPE_KEY, scope))
        if scope is None:
            with self._count_lock:
                self.unattributed += 1
            return
        vars(span)["_agentlightning_scope"] = scope
        self._started[span.get_span_context().span_id] = scope

    def on_end(self, span: "ReadableSpan") -> None:
        """Translate the span and record it in its scope; never blocks."""
        context = span.get_span_context()
        scope = self._started.pop(context.span_id, None) if context is not None else None
        if scope is not None:
            scope.record(_translate(span, scope))

    def shutdown(self) -> None:
        """Do nothing: scopes and exporters have lives of their own."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Say that nothing is kept back here; `Tracer.flush` waits for the store."""
        return True


def _translate(span: "ReadableSpan", scope: TraceScope) -> Span:
    return Span.from_opentelemetry(
        span, scope.rollout_id, scope.attempt_id, 0, resource=_resource_in(scope, span.resource)
    )


def _resource_in(scope: TraceScope, original: "Resource") -> OtelResource:
    """Return a provider's resource with the scope's ids, the same object for all its spans."""
    known = scope.resources.get(id(original))
    if known is None:
        resource = OtelResource.from_opentelemetry(original)
        resource.attributes[LightningResourceAttributes.ROLLOUT_ID.value] = scope.rollout_id
        resource.attributes[LightningResourceAttributes.ATTEMPT_ID.value] = scope.attempt_id
        # The original is kept beside it, so that its identity stays its own.
        known = scope.resources[id(original)] = (original, resource)
    return known[1]
