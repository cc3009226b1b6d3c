"""Emitting messages: free text that belongs to the trace, such as a log line."""

from typing import Any

from agentlightning.emitter.emission import emit, flat_attributes
from agentlightning.semconv import AGL_MESSAGE, LightningSpanAttributes
from agentlightning.types.tracer import SpanLike

__all__ = ["emit_message", "get_message_value"]


def emit_message(
    message: str, attributes: dict[str, Any] | None = None, propagate: bool = True
) -> None:
    """Record a text as a span.

    Args:
        message: The text.
        attributes: More attributes, flattened.
        propagate: Whether the span goes to the active tracer.

    Raises:
        TypeError: `message` is not a string; `emit_object` takes other values.
        TracerError: There is no active tracer in this context.
    """
    if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers
        raise TypeError(f"A message is a string, not {type(message).__name__}: use emit_object.")
    body = {LightningSpanAttributes.MESSAGE_BODY.value: message}
    emit(AGL_MESSAGE, {**flat_attributes(attributes), **body}, propagate=propagate, status=None)


def get_message_value(span: SpanLike) -> str | None:
    """Return the text of a message span, or None for any other span."""
    value = (span.attributes or {}).get(LightningSpanAttributes.MESSAGE_BODY.value)
    return value if isinstance(value, str) else None
