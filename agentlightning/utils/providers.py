"""Finding OpenTelemetry's tracer provider, tracers and span processors in this process.

The SDK is heavy, so it loads when one of these functions is called, not with this module.
"""

import logging
from typing import TYPE_CHECKING, TypeVar, cast

from agentlightning.errors import TracerError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Tracer

__all__ = ["get_span_processors", "get_tracer", "get_tracer_provider"]

logger = logging.getLogger(__name__)

ProcessorT = TypeVar("ProcessorT", bound="SpanProcessor")


def get_tracer_provider(inspect: bool = True) -> "TracerProvider":
    """Return the process's tracer provider.

    Args:
        inspect: Whether to log, at debug level, which processors it has.

    Raises:
        TracerError: No SDK provider is set, so that spans would go nowhere.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        raise TracerError(
            "No OpenTelemetry tracer provider is set in this process: start a tracer first, "
            "for instance `with OtelTracer().lifespan():`."
        )
    if inspect:
        kinds = [type(processor).__name__ for processor in _processors(provider)]
        logger.debug("tracer provider found", extra={"processors": kinds})
    return provider


def get_tracer(use_active_span_processor: bool = True) -> "Tracer":
    """Return an OpenTelemetry tracer named `agentlightning`.

    Args:
        use_active_span_processor: Whether its spans reach the provider's processors; if not,
            they are made and thrown away.

    Raises:
        TracerError: No SDK provider is set.
    """
    provider = get_tracer_provider(inspect=False)
    if use_active_span_processor:
        return provider.get_tracer("agentlightning")
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider(
        resource=provider.resource, sampler=provider.sampler, shutdown_on_exit=False
    ).get_tracer("agentlightning")


def get_span_processors(
    provider: "TracerProvider", processor_type: type[ProcessorT]
) -> list[ProcessorT]:
    """Return the provider's processors of one type, in the order they were added."""
    return [item for item in _processors(provider) if isinstance(item, processor_type)]


def _processors(provider: "TracerProvider") -> "tuple[SpanProcessor, ...]":
    # The SDK has no public way to list them; an SDK that renames the field shows none.
    active = getattr(provider, "_active_span_processor", None)
    return cast("tuple[SpanProcessor, ...]", tuple(getattr(active, "_span_processors", ())))
