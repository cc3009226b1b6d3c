"""Whose span is whose: the agent of each span, read from the spans around it. Pure functions."""

from collections.abc import Mapping, Sequence

from agentlightning.adapter.labels import agent_label
from agentlightning.types.tracer import Span

__all__ = ["agents_of"]


def agents_of(spans: Sequence[Span]) -> dict[str, str]:
    """Return the agent of each span, by span id: the label at the span or next above it.

    Spans inside no agent are absent. Parents that are not among the spans, or that lead round in
    a circle, end the search.

    Example:
        >>> outer = Span.from_attributes(attributes={"agent.name": "planner"}, span_id="a")
        >>> inner = Span.from_attributes(attributes={}, span_id="b", parent_id="a")
        >>> agents_of([inner, outer])
        {'b': 'planner', 'a': 'planner'}
    """
    labels = {span.span_id: label for span in spans if (label := agent_label(span)) is not None}
    if not labels:
        return {}
    parents = {span.span_id: span.parent_id for span in spans}
    known: dict[str, str | None] = dict(labels)
    for span in spans:
        _find(span.span_id, parents, known)
    found = ((span.span_id, known[span.span_id]) for span in spans)
    return {span_id: label for span_id, label in found if label is not None}


def _find(span_id: str, parents: Mapping[str, str | None], known: dict[str, str | None]) -> None:
    """Make known the agents of a span and of all that was passed on the way up to a label."""
    path: dict[str, None] = {}
    current: str | None = span_id
    while current is not None and current not in known and current not in path:
        path[current] = None
        current = parents.get(current)
    label = known.get(current) if current is not None else None
    known.update(dict.fromkeys(path, label))
