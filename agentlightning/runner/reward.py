"""Reading what an agent or a reward function returned: a reward, spans, or nonsense. Pure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from agentlightning._internal.clock import now
from agentlightning._internal.ids import attempt_trace_id
from agentlightning.errors import RewardError
from agentlightning.semconv import AGL_ANNOTATION, LightningSpanAttributes, RewardAttributes
from agentlightning.types import Attempt, Attributes, Rollout, Span, SpanCoreFields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["RewardFn", "read_result", "read_reward", "reward_span"]

logger = logging.getLogger(__name__)

_PRIMARY_KEYS = ("primary", "reward")
_SHOWN_CHARACTERS = 200


class RewardFn(Protocol):
    """Grades one rollout outside the agent; sync or async, and may declare fewer keywords."""

    def __call__(self, task: Any, output: Any, *, spans: Sequence[Span], rollout: Rollout) -> Any:
        """Return a number or a dict of numbers, or an awaitable of one."""
        ...


def read_reward(value: Any) -> dict[str, float] | None:
    """Return a reward's dimensions, the primary one first, or None if `value` is no reward.

    Args:
        value: A number (also of numpy or torch), or a dict of numbers. The primary dimension of
            a dict is named `primary` or `reward`, else comes first.

    Raises:
        RewardError: A number is NaN or infinite, or a dict is empty or holds something else.

    Example:
        >>> read_reward({"format": 1, "reward": 0.5})
        {'reward': 0.5, 'format': 1.0}
    """
    if not isinstance(value, Mapping):
        number = _as_number(value)
        return None if number is None else {"primary": _finite(number)}
    dimensions: dict[str, float] = {}
    for name, part in cast("Mapping[Any, Any]", value).items():
        number = _as_number(part)
        if number is None:
            raise RewardError(f"The reward dimension {name!r} is {part!r}; it must be a number.")
        dimensions[str(name)] = _finite(number)
    if not dimensions:
        raise RewardError("The reward is an empty dict; return at least one dimension.")
    primary = next((key for key in _PRIMARY_KEYS if key in dimensions), next(iter(dimensions)))
    return {primary: dimensions.pop(primary), **dimensions}


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        return float(value)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        item = value.item()
        return float(item) if isinstance(item, bool | int | float) else None
    return None


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise RewardError(f"The reward is {number}; it must be a finite number.")
    return number


def reward_span(dimensions: Mapping[str, float], attempt: Attempt) -> Span:
    """Return the annotation span that stores a reward, at the top of the attempt's trace."""
    attributes: Attributes = {}
    for index, (name, value) in enumerate(dimensions.items()):
        prefix = f"{LightningSpanAttributes.REWARD}.{index}"
        attributes[f"{prefix}.{RewardAttributes.NAME}"] = name
        attributes[f"{prefix}.{RewardAttributes.VALUE}"] = value
    moment = now()
    return Span.from_attributes(
        attributes=attributes,
        rollout_id=attempt.rollout_id,
        attempt_id=attempt.attempt_id,
        name=AGL_ANNOTATION,
        trace_id=attempt_trace_id(attempt.rollout_id, attempt.attempt_id),
        start_time=moment,
        end_time=moment,
    )


def read_result(result: Any, attempt: Attempt) -> list[Span]:
    """Return the spans to store for what an agent returned where nothing else grades it.

    Raises:
        RewardError: It is neither None, nor a reward, nor a list of spans.
    """
    if result is None:
        return []
    if isinstance(result, list):
        return [_own_span(item, attempt) for item in cast("list[Any]", result)]
    dimensions = read_reward(result)
    if dimensions is None:
        raise RewardError(
            f"The agent returned a {type(result).__name__} ({_shown(result)}). Return a number, a "
            "dict of numbers, a list of spans or None, or give the Trainer a reward_fn."
        )
    return [reward_span(dimensions, attempt)]


def _own_span(item: Any, attempt: Attempt) -> Span:
    rollout_id, attempt_id = attempt.rollout_id, attempt.attempt_id
    if isinstance(item, Span):
        return item.model_copy(update={"rollout_id": rollout_id, "attempt_id": attempt_id})
    if isinstance(item, SpanCoreFields):
        span = Span.from_core_fields(item, rollout_id=rollout_id, attempt_id=attempt_id)
        return span.model_copy(update={"trace_id": attempt_trace_id(rollout_id, attempt_id)})
    if callable(getattr(item, "get_span_context", None)):
        readable = cast("ReadableSpan", item)
        return Span.from_opentelemetry(readable, rollout_id, attempt_id, sequence_id=0)
    raise RewardError(
        f"The agent returned a list with a {type(item).__name__} ({_shown(item)}); a list must "
        "hold spans."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
