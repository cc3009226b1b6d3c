"""Reading a captured call back out of the span that stores it."""

import logging

from agentlightning.semconv import CallAttributes
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span

__all__ = ["read_call"]

logger = logging.getLogger(__name__)


def read_call(span: Span) -> CallRecord | None:
    """Return the call that a span records; None, with a warning, when it is unreadable."""
    if CallAttributes.RECORD.value not in span.attributes:
        return None
    try:
        return CallRecord.from_span(span)
    except (ValueError, TypeError) as error:
        logger.warning(
            "unreadable call record ignored",
            extra={
                "rollout_id": span.rollout_id,
                "attempt_id": span.attempt_id,
                "span_id": span.span_id,
                "error": str(error),
            },
        )
        return None
