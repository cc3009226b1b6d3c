"""Emitting exceptions that the agent survived."""

from typing import Any

from agentlightning.emitter.emission import emit, flat_attributes
from agentlightning.semconv import AGL_EXCEPTION
from agentlightning.types.tracer import TraceStatus
from agentlightning.utils.attributes import format_exception_attributes

__all__ = ["emit_exception"]


def emit_exception(
    exception: BaseException, attributes: dict[str, Any] | None = None, propagate: bool = True
) -> None:
    """Record an exception, with its stack, as a span.

    Args:
        exception: The exception; it is not raised.
        attributes: More attributes, flattened.
        propagate: Whether the span goes to the active tracer.

    Raises:
        TypeError: It is not an exception.
        TracerError: There is no active tracer in this context.
    """
    if not isinstance(exception, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers
        raise TypeError(f"An exception is expected, not {type(exception).__name__}.")
    described = {**flat_attributes(attributes), **format_exception_attributes(exception)}
    ok = TraceStatus(status_code="OK")
    emit(AGL_EXCEPTION, described, propagate=propagate, status=ok)
