"""Finding captured model calls among spans."""

from collections import Counter
from collections.abc import Sequence

from agentlightning.adapter.agents import agents_of
from agentlightning.adapter.call_record import read_call
from agentlightning.adapter.llm_span import response_id
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span

__all__ = ["find_calls", "named_calls", "read_call"]


def find_calls(spans: Sequence[Span]) -> list[CallRecord]:
    """Return the calls that the gateway captured, ordered by when they ended.

    Calls of every outcome are there, failed and cancelled ones and those of judges too. A call
    that came without a role takes the name of the agent whose span it lies in, if the client
    announced one (`traceparent`), or else of the agent whose client recorded the same answer.
    """
    return sorted((call for _, call in named_calls(spans)), key=lambda call: call.end_time)


def named_calls(spans: Sequence[Span], *, only_told: bool = False) -> list[tuple[Span, CallRecord]]:
    """Return what `find_calls` does, each call with its span, in the order of the spans.

    Args:
        spans: Those of an attempt.
        only_told: Whether a call has a role only if the gateway was told it, so that whoever
            sampled the call knew it too.
    """
    found = [(span, call) for span in spans if (call := read_call(span)) is not None]
    if not only_told and any(call.role is None for _, call in found):
        _name_agents(found, spans)
    return found


def _name_agents(found: Sequence[tuple[Span, CallRecord]], spans: Sequence[Span]) -> None:
    agents = agents_of(spans)
    if not agents:
        return
    clients: dict[str, list[Span]] = {}
    for span in spans:
        answer = response_id(span) if span.span_id in agents else None
        if answer is not None:
            clients.setdefault(answer, []).append(span)
    times_seen = Counter(call.response_id for _, call in found)
    for span, call in found:
        if call.role is not None:
            continue
        near = clients.get(call.response_id or "", [])
        if times_seen[call.response_id] > 1:
            # A server that repeats its ids: only the client's time tells which call it made.
            near = [client for client in near if _encloses(client, span)]
        names = {agents[client.span_id] for client in near}
        call.role = agents.get(span.span_id) or (names.pop() if len(names) == 1 else None)


def _encloses(outer: Span, inner: Span) -> bool:
    if None in (outer.start_time, outer.end_time, inner.start_time, inner.end_time):
        return False
    starts = (outer.start_time or 0.0) <= (inner.start_time or 0.0)
    return starts and (outer.end_time or 0.0) >= (inner.end_time or 0.0)
