"""Emitting rewards; the readers live in `agentlightning.adapter.rewards` and are re-exported."""

import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from agentlightning.adapter.rewards import (
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from agentlightning.emitter.emission import emit, flat_attributes
from agentlightning.errors import RewardError
from agentlightning.semconv import AGL_ANNOTATION, LightningSpanAttributes, RewardAttributes
from agentlightning.types.tracer import Attributes, SpanCoreFields, TraceStatus
from agentlightning.utils.links import extract_links_from_attributes, make_link_attributes

__all__ = [
    "emit_reward",
    "find_final_reward",
    "find_reward_spans",
    "get_reward_value",
    "get_rewards_from_span",
    "is_reward_span",
    "reward",
]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def emit_reward(
    reward: float | Mapping[str, float],
    *,
    primary_key: str | None = None,
    attributes: dict[str, Any] | None = None,
    propagate: bool = True,
    span_id: str | None = None,
) -> SpanCoreFields:
    """Record a reward as an annotation span.

    Args:
        reward: A number, or a number per dimension.
        primary_key: Which dimension counts where one number is wanted; needed with dimensions.
        attributes: More attributes, flattened; for instance tags and links.
        propagate: Whether the span goes to the active tracer; if not, it is only returned.
        span_id: Id of the span that earned the reward, to which the reward is linked.

    Raises:
        TypeError: `reward` is neither a number nor a dict.
        RewardError: A dimension is not a finite number, or `primary_key` is not among them.
        TracerError: There is no active tracer in this context.
    """
    encoded: Attributes = {**flat_attributes(attributes), **_encode(reward, primary_key)}
    if span_id is not None:
        start = len(extract_links_from_attributes(encoded))
        encoded.update(make_link_attributes({"span_id": span_id}, start))
    ok = TraceStatus(status_code="OK")
    return emit(AGL_ANNOTATION, encoded, propagate=propagate, status=ok)


def _encode(reward: Any, primary_key: str | None) -> Attributes:
    dimensions = _dimensions(reward, primary_key)
    attributes: Attributes = {}
    for index, (name, value) in enumerate(dimensions.items()):
        if not math.isfinite(value):
            raise RewardError(f"The reward {name!r} is {value}: a reward is a finite number.")
        prefix = f"{LightningSpanAttributes.REWARD.value}.{index}."
        attributes[prefix + RewardAttributes.NAME.value] = name
        attributes[prefix + RewardAttributes.VALUE.value] = value
    return attributes


def _dimensions(reward: Any, primary_key: str | None) -> dict[str, float]:
    """Return the dimensions with the primary one first."""
    if isinstance(reward, numbers.Real):
        return {"primary": float(reward)}
    if not isinstance(reward, Mapping):
        raise TypeError(f"A reward is a number or a dict, not {type(reward).__name__}.")
    values = cast("Mapping[str, Any]", reward)
    if primary_key is None or primary_key not in values:
        raise RewardError(
            f"primary_key is {primary_key!r}: name one of the dimensions {sorted(values)}."
        )
    wrong = [name for name, value in values.items() if not isinstance(value, numbers.Real)]
    if wrong:
        raise RewardError(f"The reward dimensions {wrong} are not numbers.")
    ordered = {primary_key: values[primary_key], **values}
    return {name: float(value) for name, value in ordered.items()}


def reward(fn: FunctionT) -> FunctionT:
    """Decorate a function so that each result is emitted as a reward (deprecated).

    A result of None emits nothing. Call `emit_reward` instead.
    """
    warnings.warn("@reward is deprecated: call emit_reward().", DeprecationWarning, stacklevel=2)
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return _emit_result(await fn(*args, **kwargs))

        return cast("FunctionT", wrapped)

    @functools.wraps(fn)
    def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
        return _emit_result(fn(*args, **kwargs))

    return cast("FunctionT", wrapped_sync)


def _emit_result(result: Any) -> Any:
    if result is not None:
        emit_reward(result)
    return result
