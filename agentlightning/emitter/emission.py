"""The one way from an emitter to a tracer."""

import logging
from collections.abc import Mapping
from typing import Any

from agentlightning.env_var import LightningEnvVar, resolve_bool_env_var
from agentlightning.tracer.base import Tracer, require_active_tracer
from agentlightning.tracer.dummy import DummyTracer
from agentlightning.types.tracer import Attributes, SpanCoreFields, TraceStatus
from agentlightning.utils.attributes import check_attributes_sanity, flatten_attributes

__all__ = ["choose_tracer", "emit", "flat_attributes"]

logger = logging.getLogger(__name__)


def choose_tracer(propagate: bool) -> Tracer:
    """Return the active tracer, or one that stores nothing when `propagate` is False.

    Raises:
        TracerError: There is no active tracer in this context.
    """
    return require_active_tracer() if propagate else DummyTracer()


def flat_attributes(attributes: Mapping[str, Any] | None) -> Attributes:
    """Flatten attributes given by a user, refusing values that could not be stored.

    Raises:
        ConfigurationError: A value is neither primitive, list of primitives, nor nested such.
    """
    flat = flatten_attributes(dict(attributes)) if attributes else {}
    check_attributes_sanity(flat)
    return flat


def emit(
    name: str, attributes: Attributes, *, propagate: bool, status: TraceStatus | None
) -> SpanCoreFields:
    """Record one span without duration and return it."""
    span = choose_tracer(propagate).create_span(name, attributes=attributes, status=status)
    if resolve_bool_env_var(LightningEnvVar.AGL_EMITTER_DEBUG, fallback=False):
        logger.debug("span emitted", extra={"span_name": name, "span_attributes": attributes})
    return span
