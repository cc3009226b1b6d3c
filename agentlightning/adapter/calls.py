"""Finding captured model calls among spans."""

import logging
from collections.abc import Sequence

from agentlightning.adapter.agents import agents_of
from agentlightning.semconv import CallAttributes
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span

__all__ = ["find_calls", "named_calls", "read_call"]

logger = logging.getLogger(__name__)


def find_calls(spans: Sequence[Span]) -> list[CallRecord]:
    """Return the calls that the gateway captured, ordered by when they ended.

    Calls of every outcome are there, failed and cancelled ones and those of judges too. A call
    that came without a role takes the name of the agent whose span it lies in, if the client
    announced one (`traceparent`), or else of the agent whose client recorded the same answer.
    """
    return sorted((call for _, call in named_calls(spans)), key=lambda call: call.end_time)


def named_calls(spans: Sequence[Span]) -> list[tuple[Span, CallRecord]]:
    """Return what `find_calls` does, each call with its span, in the order of the spans."""
    found = [(span, call) for span in spans if (call := read_call(span)) is not None]
    if any(call.role is None for _, call in found):
        _name_agents(found, spans)
    return found


def _name_agents(found: Sequence[tuple[Span, CallRecord]], spans: Sequence[Span]) -> None:
    agents = agents_of(spans)
    if not agents:
        return
    by_answer: dict[str, str] = {}
    for span in spans:
        answer = span.attributes.get(CallAttributes.RESPONSE_ID.value)
        if isinstance(answer, str) and answer and span.span_id in agents:
            by_answer.setdefault(answer, agents[span.span_id])
    for span, call in found:
        if call.role is None:
            call.role = agents.get(span.span_id) or by_answer.get(call.response_id or "")


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
