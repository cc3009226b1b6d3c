"""Finding captured model calls among spans."""

import logging
from collections.abc import Sequence

from agentlightning.semconv import CallAttributes
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span

__all__ = ["find_calls", "read_call"]

logger = logging.getLogger(__name__)


def find_calls(spans: Sequence[Span]) -> list[CallRecord]:
    """Return the calls that the gateway captured, ordered by when they ended.

    Calls of every outcome are there, failed and cancelled ones and those of judges too.
    """
    calls = [call for call in map(read_call, spans) if call is not None]
    return sorted(calls, key=lambda call: call.end_time)


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
