"""Reading rewards out of spans, whichever version or library wrote them. Pure functions."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from agentlightning.semconv import (
    AGL_ANNOTATION,
    AGL_REWARD,
    LightningSpanAttributes,
    RewardAttributes,
    RewardPydanticModel,
)
from agentlightning.types.tracer import SpanLike

__all__ = [
    "find_final_reward",
    "find_reward_spans",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
]

SpanT = TypeVar("SpanT", bound=SpanLike)

_PREFIX = LightningSpanAttributes.REWARD.value + "."
_AGENTOPS_KEYS = ("agentops.task.output", "agentops.entity.output")
_LEGACY_NAMES = frozenset({AGL_ANNOTATION, AGL_REWARD})


def get_rewards_from_span(span: SpanLike) -> list[RewardPydanticModel]:
    """Return the dimensions of a span's reward, the primary one first; empty if it has none.

    Dimensions without a name or a numeric value are left out.
    """
    dimensions: dict[int, dict[str, Any]] = {}
    for key, value in (span.attributes or {}).items():
        if key.startswith(_PREFIX):
            index, _, part = key[len(_PREFIX) :].partition(".")
            if index.isdecimal():
                dimensions.setdefault(int(index), {})[part] = value
    rewards: list[RewardPydanticModel] = []
    for _, parts in sorted(dimensions.items()):
        number = _as_number(parts.get(RewardAttributes.VALUE.value))
        name = parts.get(RewardAttributes.NAME.value)
        if number is not None and isinstance(name, str):
            rewards.append(RewardPydanticModel(name=name, value=number))
    return rewards


def get_reward_value(span: SpanLike) -> float | None:
    """Return a span's primary reward, or None when it carries no reward.

    Besides our own attributes it reads AgentOps operations whose output says
    `{"type": "reward", "value": …}`, and the attribute `reward` of the first span format.
    """
    rewards = get_rewards_from_span(span)
    if rewards:
        return rewards[0].value
    attributes = cast("Mapping[str, Any]", span.attributes or {})
    for key in _AGENTOPS_KEYS:
        output = _as_mapping(attributes.get(key))
        if output is not None and output.get("type") == "reward":
            return _as_number(output.get("value"))
    if span.name in _LEGACY_NAMES:
        return _as_number(attributes.get("reward"))
    return None


def is_reward_span(span: SpanLike) -> bool:
    """Return whether a span carries a reward."""
    return get_reward_value(span) is not None


def find_reward_spans(spans: Sequence[SpanT]) -> list[SpanT]:
    """Return the spans that carry a reward, in their order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """Return the reward of the last span in the list that has one: the attempt's reward."""
    values = (get_reward_value(span) for span in reversed(spans))
    return next((value for value in values if value is not None), None)


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool | int | float) and not math.isnan(value):
        return float(value)
    return None


def _as_mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None
