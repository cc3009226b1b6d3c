"""Emitting annotations: facts about what the agent just did."""

from typing import Any

from agentlightning.emitter.emission import emit, flat_attributes
from agentlightning.semconv import AGL_ANNOTATION
from agentlightning.types.tracer import SpanCoreFields, TraceStatus

__all__ = ["emit_annotation"]


def emit_annotation(annotation: dict[str, Any], propagate: bool = True) -> SpanCoreFields:
    """Record facts as one annotation span.

    Args:
        annotation: The facts; nested dicts and lists are flattened to dotted keys.
        propagate: Whether the span goes to the active tracer; if not, it is only returned.

    Raises:
        TracerError: There is no active tracer in this context.
        ConfigurationError: A value cannot be stored.
    """
    attributes = flat_attributes(annotation)
    ok = TraceStatus(status_code="OK")
    return emit(AGL_ANNOTATION, attributes, propagate=propagate, status=ok)
