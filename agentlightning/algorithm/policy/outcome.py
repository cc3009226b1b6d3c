"""What one rollout brought: its reward, its model calls, and why it failed if it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning.adapter.base import in_time
from agentlightning.adapter.calls import named_calls
from agentlightning.adapter.diagnosis import TraceDiagnosis, diagnose
from agentlightning.algorithm.policy.earned import Earned, find_earned
from agentlightning.types import Attempt, AttemptedRollout, CallRecord, Rollout

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.store.base import LightningStore

__all__ = ["RolloutOutcome", "fetch_outcome"]

_AGENT_OUTCOMES = frozenset(
    {"agent_error", "timeout", "reward_error", "overflow", "budget_exceeded"}
)
"""Failures that are the agent's own doing; all others are nobody's experience."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutOutcome:
    """One ended rollout."""

    rollout_id: str
    group_id: str
    task: Any
    reward: float | None
    """What it got altogether; None when it was not scored, or does not count."""
    outcome: str
    """`ok`, or the class of the failure."""
    error: str | None
    calls: tuple[CallRecord, ...]
    span_count: int
    diagnosis: TraceDiagnosis | None = None
    """What the trace lacks for training; None when it lacks nothing."""
    earned: Earned | None = None
    """The rewards one by one; None where `reward` says it all."""

    @property
    def has_tokens(self) -> bool:
        """Return whether any call can be trained on."""
        return any(
            call.trained and call.prompt_token_ids and any(c.token_ids for c in call.choices)
            for call in self.calls
        )

    @property
    def answer(self) -> str:
        """Return the last text that the model gave."""
        for call in reversed(self.calls):
            for choice in call.choices:
                content = (choice.message or {}).get("content")
                if content:
                    return str(content)
        return self.error or ""


async def fetch_outcome(
    store: LightningStore, rollout: Rollout, *, group_id: str, config: RunConfig
) -> RolloutOutcome:
    """Read what the latest attempt of an ended rollout left in the store.

    What arrived after its end does not count: a reward that comes late changes nothing.
    """
    spans = in_time(await store.query_spans(rollout.rollout_id, "latest"))
    attempt = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    if attempt is None:
        attempt = await store.get_latest_attempt(rollout.rollout_id)
    outcome, error = _classify(rollout, attempt)
    # An adapter is trained on what it sampled, and the engine knows no role but the one it was told.
    named = named_calls(spans, only_told=config.adapters is not None)
    calls = sorted((call for _, call in named), key=lambda call: call.end_time)
    earned = find_earned(spans, named)
    return RolloutOutcome(
        rollout_id=rollout.rollout_id,
        group_id=group_id,
        task=rollout.input,
        reward=_reward(earned, outcome, config),
        outcome=outcome,
        error=error,
        calls=tuple(calls),
        span_count=len(spans),
        diagnosis=diagnose(spans, agents=config.roles, calls=calls),
        earned=earned,
    )


def _classify(rollout: Rollout, attempt: Attempt | None) -> tuple[str, str | None]:
    if rollout.status == "succeeded":
        return "ok", None
    if attempt is None or rollout.status == "cancelled":
        # What the agent did after somebody cancelled its rollout is not its own doing.
        return rollout.status, None
    metadata = attempt.metadata or {}
    error = metadata.get("error") or {}
    return (
        str(metadata.get("outcome") or attempt.status),
        f"{error.get('type')}: {error.get('message')}" if error else None,
    )


def _reward(earned: Earned, outcome: str, config: RunConfig) -> float | None:
    if outcome == "ok":
        return config.reward_of(earned)
    if config.failure_policy == "reward" and outcome in _AGENT_OUTCOMES:
        return config.failure_reward
    return None
