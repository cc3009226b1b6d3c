"""Arranging spans by parent into one tree, whatever is missing or contradictory among them."""

from collections.abc import Iterable, Sequence

from agentlightning.adapter.interval import Interval, tightest_enclosing
from agentlightning.errors import ConfigurationError
from agentlightning.semconv import AGL_VIRTUAL
from agentlightning.types.tracer import Span

__all__ = ["arrange", "enclosing_spans"]

VIRTUAL_ROOT = "virtual-root"

Children = dict[str, list[str]]


def arrange(spans: Sequence[Span]) -> tuple[dict[str, Span], Children, str]:
    """Return the spans by id, the ids of each one's children by start time, and the root's id.

    A parent that is not among the spans is made up, over the times of its children; so is a
    root, when there are several. Of spans with the same id the last counts. Spans that are each
    other's ancestors become roots.

    Raises:
        ConfigurationError: There are no spans.
    """
    if not spans:
        raise ConfigurationError("A trace tree needs at least one span; none was given.")
    by_id = {span.span_id: span for span in sorted(spans, key=_start)}
    children: Children = {}
    roots: list[str] = []
    for span_id, span in list(by_id.items()):
        if span.parent_id:
            children.setdefault(span.parent_id, []).append(span_id)
        else:
            roots.append(span_id)
    for parent_id in [known for known in children if known not in by_id]:
        by_id[parent_id] = _virtual(AGL_VIRTUAL, parent_id, [by_id[c] for c in children[parent_id]])
        roots.append(parent_id)
    roots.extend(_cut_cycles(by_id, children, roots))
    if len(roots) == 1:
        return by_id, children, roots[0]
    roots.sort(key=lambda span_id: _start(by_id[span_id]))
    by_id[VIRTUAL_ROOT] = _virtual(VIRTUAL_ROOT, VIRTUAL_ROOT, [by_id[r] for r in roots])
    children[VIRTUAL_ROOT] = roots
    return by_id, children, VIRTUAL_ROOT


def _cut_cycles(by_id: dict[str, Span], children: Children, roots: Iterable[str]) -> list[str]:
    """Detach one span of every cycle of parents, and return the spans so detached."""
    reached: set[str] = set()
    _reach(roots, children, reached)
    detached: list[str] = []
    for span_id in by_id:
        if span_id not in reached:
            parent_id = by_id[span_id].parent_id
            if parent_id is not None:
                children[parent_id].remove(span_id)
            detached.append(span_id)
            _reach([span_id], children, reached)
    return detached


def _reach(start: Iterable[str], children: Children, reached: set[str]) -> None:
    stack = list(start)
    while stack:
        span_id = stack.pop()
        if span_id not in reached:
            reached.add(span_id)
            stack.extend(children.get(span_id, ()))


def enclosing_spans(inner: Sequence[Span], outer: Sequence[Span]) -> dict[str, list[str]]:
    """Return, for each inner span, the outer ones that strictly enclose it, tightest first."""
    return tightest_enclosing(_intervals(inner), _intervals(outer))


def _intervals(spans: Sequence[Span]) -> list[Interval]:
    return [
        Interval(span.span_id, span.start_time, span.end_time)
        for span in spans
        if span.start_time is not None and span.end_time is not None
    ]


def _virtual(name: str, span_id: str, around: Sequence[Span]) -> Span:
    first = around[0]
    starts = [span.start_time for span in around if span.start_time is not None]
    ends = [span.end_time for span in around if span.end_time is not None]
    return Span.from_attributes(
        attributes={},
        rollout_id=first.rollout_id,
        attempt_id=first.attempt_id,
        name=name,
        trace_id=first.trace_id,
        span_id=span_id,
        start_time=min(starts, default=None),
        end_time=max(ends, default=None),
    )


def _start(span: Span) -> float:
    return span.start_time if span.start_time is not None else 0.0
