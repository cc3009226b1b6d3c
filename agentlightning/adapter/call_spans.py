"""One span per model call, where several writers recorded the same call. Pure functions.

A client library, the framework around it and our gateway may each write a span for one call.
Spans of one response id are one call, but for calls that our gateway tells apart. A writer that does not tell the id (streams, in some
libraries) is matched to one that does by model, usage and time.
"""

from collections.abc import Iterable, Sequence

from agentlightning.adapter.llm_call import LlmCall, read_usage
from agentlightning.adapter.llm_span import is_record, read_llm_call, response_id
from agentlightning.semconv import CallAttributes
from agentlightning.types.tracer import Span

__all__ = ["one_per_call"]

Labelled = tuple[Span, str]


def one_per_call(found: Sequence[Labelled]) -> list[Labelled]:
    """Return one span for each call, in the order in which the calls first appear.

    Our gateway's span is preferred, since it knows what was sampled; else the one that tells
    most. A span that is kept without a response id of its own gets that of its like. The label of
    another writer is taken where the kept span has none (`*`): a client knows its agent.

    Args:
        found: Spans of model calls, each with the label of its agent.
    """
    groups: dict[str, list[Labelled]] = {}
    nameless: list[Labelled] = []
    for item in found:
        key = response_id(item[0])
        if key is None:
            nameless.append(item)
        else:
            groups.setdefault(key, []).append(item)
    places = {id(item): place for place, item in enumerate(found)}
    taken: set[str] = set()
    alone: list[Labelled] = []
    for item in nameless:
        key = _nearest(item[0], groups, taken)
        if key is None:
            alone.append(item)
        else:
            taken.add(key)
            groups[key].append(item)
    kept = [(places[id(item)], item) for item in alone]
    for key, group in groups.items():
        kept += [
            (min(places[id(each)] for each in part), _best(key, part)) for part in _apart(group)
        ]
    return [item for _, item in sorted(kept, key=lambda placed: placed[0])]


def _apart(group: Sequence[Labelled]) -> list[list[Labelled]]:
    """Return the spans of each call among spans with one response id.

    Some servers (Ollama) draw ids from a few hundred, or repeat one. Our gateway writes one span
    for each call, so two of its spans are two calls; another writer's span is of the one that it
    overlaps, and of none where that is not clear.
    """
    records = [item for item in group if is_record(item[0])]
    if len(records) < 2:
        return [list(group)]
    parts = {id(record): [record] for record in records}
    for item in group:
        near = [record for record in records if _overlap(item[0], record[0])]
        if len(near) == 1 and not is_record(item[0]):
            parts[id(near[0])].append(item)
    # Clients of several agents that called at the same time leave open whose call it was.
    return [
        part if len({label for _, label in part} - {"*"}) < 2 else part[:1]
        for part in parts.values()
    ]


def _best(key: str, group: Sequence[Labelled]) -> Labelled:
    span, label = max(group, key=lambda item: _told(item[0]))
    if label == "*":
        label = next((other for _, other in group if other != "*"), label)
    if response_id(span) is None:
        attributes = {**span.attributes, CallAttributes.RESPONSE_ID.value: key}
        span = span.model_copy(update={"attributes": attributes})
    return span, label


def _told(span: Span) -> tuple[bool, bool, bool, bool]:
    """Return how much a span tells, as a key to order by."""
    call = read_llm_call(span) or LlmCall(convention="")
    has_ids = bool(call.prompt_token_ids and call.response_token_ids)
    return is_record(span), has_ids, bool(call.answers), bool(call.messages)


def _nearest(span: Span, groups: dict[str, list[Labelled]], taken: set[str]) -> str | None:
    """Return the response id of the call that a span without one is of, or None."""
    distances = [
        (abs((other.start_time or 0.0) - (span.start_time or 0.0)), key)
        for key, group in groups.items()
        if key not in taken
        for other in _spans(group)
        if _is_same_call(span, other)
    ]
    return min(distances)[1] if distances else None


def _spans(group: Iterable[Labelled]) -> list[Span]:
    return [span for span, _ in group]


def _is_same_call(one: Span, other: Span) -> bool:
    if _model(one) != _model(other) or not _overlap(one, other):
        return False
    mine, theirs = _usage(one), _usage(other)
    return all(mine[name] == theirs[name] for name in mine.keys() & theirs.keys())


def _overlap(one: Span, other: Span) -> bool:
    """Return whether the longer of the two covers at least half of the shorter."""
    times = (one.start_time, one.end_time, other.start_time, other.end_time)
    if any(time is None for time in times):
        return False
    start, end, other_start, other_end = (time or 0.0 for time in times)
    common = min(end, other_end) - max(start, other_start)
    return common >= 0 and 2 * common >= min(end - start, other_end - other_start)


def _model(span: Span) -> object:
    asked = span.attributes.get(CallAttributes.REQUEST_MODEL.value)
    call = read_llm_call(span) if asked is None else None
    return call.model if call else asked


def _usage(span: Span) -> dict[str, int]:
    call = read_llm_call(span)
    return call.usage if call else read_usage(span.attributes)
