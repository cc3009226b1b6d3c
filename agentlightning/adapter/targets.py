"""Rewards that say what they are for: from their links to the model calls that earned them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentlightning.adapter.labels import agent_label
from agentlightning.adapter.llm_span import response_id
from agentlightning.adapter.rewards import get_reward_value
from agentlightning.semconv import CallAttributes, LinkPydanticModel
from agentlightning.types.tracer import Span
from agentlightning.utils.links import extract_links_from_attributes, query_linked_spans

__all__ = ["ExplicitRewards", "explicit_rewards"]


@dataclass(frozen=True, slots=True)
class ExplicitRewards:
    """Which calls earned which linked rewards."""

    by_call: dict[str, float]
    """Span id of the call to its reward."""
    used: frozenset[str]
    """Ids of the reward spans that found their target."""


def explicit_rewards(
    spans: Sequence[Span],
    calls: Mapping[str, float],
    parents: Mapping[str, str | None] | None = None,
) -> ExplicitRewards:
    """Return what the linked rewards among `spans` give to `calls`.

    A link names spans by id, trace id, an attribute, or by `agent.name` whatever library said it.
    The calls meant are the spans that match all links of the reward, and the calls below them.
    Of several, the latest that had ended when the reward was given earns it, and of several
    rewards for one call the last counts. A reward whose target holds none of the calls is not
    used: it is then matched like one without links.

    Args:
        spans: All spans of the attempt.
        calls: Span id of each call to the time when it ended, in unix seconds.
        parents: Span id to its parent's, where the hierarchy was mended; None reads the spans.
    """
    linked = [(span, links) for span in spans if (links := _links(span))]
    if not linked or not calls:
        return ExplicitRewards({}, frozenset())
    if parents is None:
        parents = {span.span_id: span.parent_id for span in spans}
    above = _surroundings(spans, calls, parents)
    rewards: dict[str, float] = {}
    used: set[str] = set()
    for span, links in sorted(linked, key=lambda item: item[0].start_time or 0.0):
        targets = {target.span_id for target in _targets(spans, links)} - {span.span_id}
        meant = [call_id for call_id in calls if above[call_id] & targets]
        value = get_reward_value(span)
        if meant and value is not None:
            given = span.start_time if span.start_time is not None else float("inf")
            ended = [call_id for call_id in meant if calls[call_id] <= given]
            # A linked reward is for its target whatever the clocks of two machines say.
            rewards[max(ended or meant, key=lambda call_id: calls[call_id])] = value
            used.add(span.span_id)
    return ExplicitRewards(rewards, frozenset(used))


def _links(span: Span) -> list[LinkPydanticModel]:
    if get_reward_value(span) is None:
        return []
    return extract_links_from_attributes(span.attributes)


def _targets(spans: Sequence[Span], links: Sequence[LinkPydanticModel]) -> list[Span]:
    """Return the spans that match all links; an agent's name counts in any spelling."""
    name_key = CallAttributes.AGENT_NAME.value
    names = [link.value_match for link in links if link.key_match == name_key]
    others = [link for link in links if link.key_match != name_key]
    wanted = {link.value_match for link in others if link.key_match == "span_id"}
    near = [span for span in spans if span.span_id in wanted] if wanted else spans
    matching = query_linked_spans(near, others)
    return [
        span
        for span in matching
        if isinstance(span, Span) and all(agent_label(span) == name for name in names)
    ]


def _surroundings(
    spans: Sequence[Span], calls: Mapping[str, float], parents: Mapping[str, str | None]
) -> dict[str, set[str]]:
    """Return, for each call, itself, its repetitions by other writers, and all spans above."""
    twins: dict[str, list[str]] = {}
    for span in spans:
        if (answer := response_id(span)) is not None:
            twins.setdefault(answer, []).append(span.span_id)
    answers = {span.span_id: response_id(span) for span in spans if span.span_id in calls}
    # An id that a server gave to several calls does not say whose span is whose.
    unique = {answer for answer, times in Counter(answers.values()).items() if times == 1}
    above: dict[str, set[str]] = {}
    for call_id in calls:
        around: set[str] = set()
        answer = answers.get(call_id)
        same = twins.get(answer, []) if answer is not None and answer in unique else []
        for start in {call_id, *same}:
            current: str | None = start
            while current is not None and current not in around:
                around.add(current)
                current = parents.get(current)
        above[call_id] = around
    return above
