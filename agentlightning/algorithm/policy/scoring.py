"""From an outcome to a scored rollout: rows, rewards, and what credit needs to know of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentlightning.adapter.token_row import TokenRow, TreeReport
from agentlightning.adapter.token_tree import Decode, TreeOptions, build_token_rows
from agentlightning.algorithm.policy.overlong import OVERFLOW, overlong_penalty
from agentlightning.learning.credit import CallCredit, ScoredRollout

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.config import PolicyConfig
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = ["role_rewards", "score_rollouts"]

_NOT_SCORED = float("nan")


def score_rollouts(
    outcomes: Sequence[RolloutOutcome], config: PolicyConfig, *, decode: Decode | None = None
) -> tuple[list[ScoredRollout], TreeReport]:
    """Build the rows of each outcome and say what it earned.

    Args:
        outcomes: All rollouts of a step, failed ones included.
        config: Decides what is trained and which rewards count.
        decode: Ids to text; tells apart why histories forked.

    Returns:
        The rollouts in the same order, and the account of all their trees.
    """
    options = TreeOptions(roles=config.roles, mask_truncated=config.overlong == "mask")
    rollouts: list[ScoredRollout] = []
    trees: list[TreeReport] = []
    for outcome in outcomes:
        rows, tree = build_token_rows(outcome.calls, options, decode=decode)
        trees.append(tree)
        masked = config.overlong == "mask" and outcome.outcome == OVERFLOW
        rollouts.append(_scored(outcome, [] if masked else rows, config))
    return rollouts, TreeReport.total(trees)


def _scored(
    outcome: RolloutOutcome, rows: Sequence[TokenRow], config: PolicyConfig
) -> ScoredRollout:
    penalty = 0.0
    if config.overlong == "penalty":
        penalty = overlong_penalty(
            outcome,
            max_tokens=config.max_tokens,
            buffer=config.overlong_buffer,
            factor=config.overlong_factor,
        )
    by_role = role_rewards(outcome, config)
    return ScoredRollout(
        rollout_id=outcome.rollout_id,
        group_id=outcome.group_id,
        rows=rows,
        reward=_own_reward(outcome, config) + penalty,
        calls=_calls(outcome, config),
        role_rewards={role: value + penalty for role, value in by_role.items()},
        dimensions=_dimensions(outcome, config),
    )


def _own_reward(outcome: RolloutOutcome, config: PolicyConfig) -> float:
    """Return the reward of the rollout as a whole; a failed one has what the policy gives it."""
    if outcome.reward is None:
        return _NOT_SCORED
    if outcome.outcome != "ok" or outcome.earned is None:
        return outcome.reward
    return config.own_reward(outcome.earned) or 0.0


def _calls(outcome: RolloutOutcome, config: PolicyConfig) -> tuple[CallCredit, ...]:
    if config.credit == "rollout":
        return ()
    rewards = {} if outcome.earned is None else config.call_rewards(outcome.earned)
    return tuple(
        CallCredit(
            call_id=call.call_id,
            role=call.role or "",
            started=call.start_time,
            ended=call.end_time,
            reward=rewards.get(call.call_id, 0.0),
            state=(tuple(call.prompt_token_ids) or None) if config.credit == "state" else None,
        )
        for call in outcome.calls
        if call.trained and call.outcome == "ok"
    )


def role_rewards(outcome: RolloutOutcome, config: PolicyConfig) -> Mapping[str, float]:
    """Return the rewards of single roles; NaN for one whose configured dimension is missing.

    Empty where credit is not by agent, and for failed rollouts: a failure is everybody's.
    """
    if config.credit != "agent" or outcome.outcome != "ok" or outcome.earned is None:
        return {}
    given, named = outcome.earned.dimensions, config.reward_by_role or {}
    own = {role: given.get(dimension, _NOT_SCORED) for role, dimension in named.items()}
    return {**given, **own}


def _dimensions(outcome: RolloutOutcome, config: PolicyConfig) -> Mapping[str, float]:
    if outcome.reward is None or config.reward_weights is None:
        return {}
    if outcome.outcome != "ok" or outcome.earned is None:
        return dict.fromkeys(config.reward_weights, outcome.reward)
    return outcome.earned.dimensions
