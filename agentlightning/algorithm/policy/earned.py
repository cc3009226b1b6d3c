"""What an attempt earned, by what it was given for: the rollout, one of its calls, a dimension.

Pure functions of spans. Which of these count, and how, is the configuration's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentlightning.adapter.calls import named_calls
from agentlightning.adapter.rewards import (
    find_final_reward,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from agentlightning.adapter.targets import ExplicitRewards, explicit_rewards
from agentlightning.adapter.tree import TraceTree
from agentlightning.types import CallRecord, Span
from agentlightning.utils.links import extract_links_from_attributes

__all__ = ["Earned", "find_earned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earned:
    """The rewards of one attempt."""

    final: float | None = None
    """The last reward of all, whatever it is for: what 0.3.0 takes for the rollout's."""

    own: float | None = None
    """The last reward that no link gives to a call."""

    closing: float | None = None
    """The last such reward that came after the last call had begun; None where there is none."""

    dimensions: Mapping[str, float] = field(default_factory=dict[str, float])
    """The last value of each dimension, of the rewards that no link gives to a call."""

    linked: Mapping[str, float] = field(default_factory=dict[str, float])
    """Call id to the reward that is linked to the call, or to a span around it."""

    between: Mapping[str, float] = field(default_factory=dict[str, float])
    """Call id to the rewards without a link that came after the call and before the last one
    began, added up: an agent that grades each turn as it goes."""

    @property
    def by_step(self) -> dict[str, float]:
        """Return everything that single calls earned, linked or not."""
        names = self.linked.keys() | self.between.keys()
        return {name: self.linked.get(name, 0.0) + self.between.get(name, 0.0) for name in names}

    def weighted(self, weights: Mapping[str, float]) -> float | None:
        """Return the weighted sum of the dimensions; None where none of them was given."""
        known = weights.keys() & self.dimensions.keys()
        if not known:
            return None
        return sum(weights[name] * self.dimensions[name] for name in weights if name in known)


def find_earned(
    spans: Sequence[Span], named: Sequence[tuple[Span, CallRecord]] | None = None
) -> Earned:
    """Read the rewards among the spans of one attempt.

    Links name a call's span, or a span around the call; where the client did not announce that
    span to the gateway, the call belongs to the tightest span that encloses it in time.

    Args:
        spans: The spans, in their order.
        named: What `named_calls` found among them, if that is known.
    """
    rewards = [span for span in spans if is_reward_span(span)]
    if not rewards:
        return Earned()
    calls = {
        span.span_id: call
        for span, call in (named_calls(spans) if named is None else named)
        if call.trained and call.outcome == "ok"
    }
    explicit = _explicit(spans, rewards, calls)
    free = [span for span in rewards if span.span_id not in explicit.used]
    between, closing = _by_time(free, list(calls.values()))
    return Earned(
        final=find_final_reward(rewards),
        own=find_final_reward(free),
        closing=find_final_reward(closing),
        dimensions={
            reward.name: reward.value for span in free for reward in get_rewards_from_span(span)
        },
        linked={calls[span_id].call_id: value for span_id, value in explicit.by_call.items()},
        between=between,
    )


def _explicit(
    spans: Sequence[Span], rewards: Sequence[Span], calls: Mapping[str, CallRecord]
) -> ExplicitRewards:
    if not calls or not any(extract_links_from_attributes(span.attributes) for span in rewards):
        return ExplicitRewards({}, frozenset())
    tree = TraceTree.from_spans(list(spans))
    tree.repair_hierarchy()
    parents = {node.id: above.id if above else None for node, above in tree.walk()}
    ends = {span_id: call.end_time for span_id, call in calls.items()}
    return explicit_rewards(spans, ends, parents)


def _by_time(
    rewards: Sequence[Span], calls: Sequence[CallRecord]
) -> tuple[dict[str, float], list[Span]]:
    """Part rewards into those of the call before them and those that close the rollout."""
    if not calls:
        return {}, list(rewards)
    last_start = max(call.start_time for call in calls)
    between: dict[str, float] = {}
    closing: list[Span] = []
    for span in rewards:
        given = span.start_time if span.start_time is not None else float("inf")
        ended = [call for call in calls if call.end_time <= given]
        value = get_reward_value(span)
        if given >= last_start or not ended or value is None:
            closing.append(span)
            continue
        call_id = max(ended, key=lambda call: call.end_time).call_id
        between[call_id] = between.get(call_id, 0.0) + value
    return between, closing
