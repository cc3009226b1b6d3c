"""Answers that ran into their length limit: which they are, and what they cost. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.types import CallRecord

__all__ = ["OVERFLOW", "cut_answers", "length_limit", "overlong_penalty"]

OVERFLOW = "overflow"
"""Outcome of a rollout that ended because a prompt was longer than the model's context."""

_LIMIT_KEYS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def cut_answers(calls: tuple[CallRecord, ...]) -> int:
    """Return how many answers ended at their length limit."""
    return sum(choice.finish_reason == "length" for call in calls for choice in call.choices)


def length_limit(call: CallRecord, default: int) -> int:
    """Return how many tokens an answer of this call could have had, as far as the client said."""
    for request in (call.request, call.chat_request or {}):
        for key in _LIMIT_KEYS:
            limit = request.get(key)
            if isinstance(limit, int) and limit > 0:
                return limit
    return default


def overlong_penalty(
    outcome: RolloutOutcome, *, max_tokens: int, buffer: float, factor: float
) -> float:
    """Return what a rollout's reward loses for its longest answer, as a number from -factor to 0.

    With the limit `L` and the buffer `B = buffer * L` in tokens, an answer of `n` tokens gets
    `min(0, -(n - (L - B)) / B) * factor` (soft overlong punishment, arXiv:2503.14476, eq. 13). The
    worst answer counts, so that a rollout of many calls is not punished more than one of a few.
    A rollout that overflowed the context pays the whole factor.

    Args:
        outcome: The rollout.
        max_tokens: Length limit of calls that do not say one, in tokens.
        buffer: Share of the limit over which the penalty rises.
        factor: The full penalty.
    """
    if outcome.outcome == OVERFLOW:
        return -factor
    worst = 0.0
    for call in outcome.calls:
        if not call.trained:
            continue
        limit = length_limit(call, max_tokens)
        room = buffer * limit
        for choice in call.choices:
            worst = max(worst, min(1.0, (len(choice.token_ids) - (limit - room)) / room))
    return -worst * factor
