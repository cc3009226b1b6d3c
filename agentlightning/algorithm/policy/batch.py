"""From a step's outcomes to a training batch and its metrics."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agentlightning.adapter.token_row import ForkCause, TreeReport
from agentlightning.adapter.token_tree import Decode, TreeOptions, build_token_rows
from agentlightning.algorithm.policy.diagnosis import mixed_share
from agentlightning.algorithm.policy.overlong import OVERFLOW, overlong_penalty
from agentlightning.learning.advantages import AdvantageOptions
from agentlightning.learning.batch import BatchReport, BatchSpec, ScoredRollout, build_batch
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.rows import RowBatch, TrainRow

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.config import PolicyConfig
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = ["batch_from_outcomes", "loss_spec"]


# Compat 0.3.0: the names under which it tells why turns did not merge.
_MISMATCHES = {
    "template": (ForkCause.TEMPLATE, ForkCause.TOOL_JSON, ForkCause.WHITESPACE),
    "retoken": (ForkCause.RETOKEN,),
    "others": (ForkCause.TRUNCATED, ForkCause.EDITED, ForkCause.DRIFT, ForkCause.TOOLS),
}


def loss_spec(config: PolicyConfig) -> LossSpec:
    """Return the loss that a configuration asks for."""
    return LossSpec(
        name=config.loss,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        anchor=config.anchor,
        correction=config.correction,
        correction_low=config.correction_low,
        correction_high=config.correction_high,
        kl_coef=config.kl_coef,
        kl_kind=config.kl_kind,
        entropy_coef=config.entropy_coef,
        tau_positive=config.gate_positive,
        tau_negative=config.gate_negative,
        is_cap=config.is_cap,
        off_policy_mask=config.off_policy_mask,
        epochs=config.update_epochs,
        mini_batches=config.mini_batches,
    )


def batch_from_outcomes(
    outcomes: Sequence[RolloutOutcome],
    config: PolicyConfig,
    *,
    seed: str,
    decode: Decode | None = None,
) -> tuple[RowBatch, dict[str, float]]:
    """Build the rows of one step.

    Args:
        outcomes: All rollouts of the step, failed ones included.
        config: Decides advantages, weights and limits.
        seed: Makes the shuffle of the negative control repeatable.
        decode: Ids to text, special tokens kept; tells apart why histories forked.

    Returns:
        The batch, possibly empty when no group carries a signal, and the step's data metrics.
    """
    options = TreeOptions(roles=config.roles, mask_truncated=config.overlong == "mask")
    rollouts: list[ScoredRollout] = []
    trees: list[TreeReport] = []
    for outcome in outcomes:
        rows, tree = build_token_rows(outcome.calls, options, decode=decode)
        trees.append(tree)
        masked = config.overlong == "mask" and outcome.outcome == OVERFLOW
        rollouts.append(
            ScoredRollout(
                rollout_id=outcome.rollout_id,
                group_id=outcome.group_id,
                rows=[] if masked else rows,
                reward=_shaped_reward(outcome, config),
            )
        )
    spec = BatchSpec(
        advantage=config.advantage,
        options=AdvantageOptions(scale=config.advantage_scale),
        aggregate=config.aggregate,
        length=float(config.max_tokens),
        zero_signal=config.zero_signal,
    )
    batch, report = build_batch(rollouts, spec, temperature=config.temperature)
    if config.shuffle_advantages:
        batch = _with_shuffled_advantages(batch, random.Random(seed))
    return batch, _metrics(outcomes, TreeReport.total(trees), report)


def _shaped_reward(outcome: RolloutOutcome, config: PolicyConfig) -> float:
    if outcome.reward is None:
        return float("nan")
    if config.overlong != "penalty":
        return outcome.reward
    return outcome.reward + overlong_penalty(
        outcome,
        max_tokens=config.max_tokens,
        buffer=config.overlong_buffer,
        factor=config.overlong_factor,
    )


def _with_shuffled_advantages(batch: RowBatch, rng: random.Random) -> RowBatch:
    """Give each rollout the advantage of another one: the same numbers, without their meaning."""
    own: dict[str, float] = {}
    for row in batch.rows:
        own[row.rollout_id] = float(row.adv[row.mask][0])
    values = list(own.values())
    rng.shuffle(values)
    given = dict(zip(own, values, strict=True))

    def shuffled(row: TrainRow) -> TrainRow:
        advantage = np.float32(given[row.rollout_id])
        return replace(row, adv=row.mask.astype(np.float32) * advantage)

    return replace(batch, rows=tuple(shuffled(row) for row in batch.rows))


def _metrics(
    outcomes: Sequence[RolloutOutcome], tree: TreeReport, report: BatchReport
) -> dict[str, float]:
    rewards = [outcome.reward for outcome in outcomes if outcome.reward is not None]
    calls = [call for outcome in outcomes for call in outcome.calls]
    metrics: dict[str, Any] = {
        "training/reward": float(np.mean(rewards)) if rewards else 0.0,
        "training/reward_std": float(np.std(rewards)) if rewards else 0.0,
        "training/n_rollouts": len(outcomes),
        "training/n_rollouts_w_trace": sum(outcome.has_tokens for outcome in outcomes),
        "training/n_rollouts_w_reward": len(rewards),
        "training/n_rollouts_failed": sum(outcome.outcome != "ok" for outcome in outcomes),
        "training/n_groups": report.groups,
        "training/n_zero_adv_groups": report.zero_signal_groups,
        "training/mixed_group_share": mixed_share(outcomes),
        "training/n_calls": len(calls),
        "training/n_calls_failed": sum(call.outcome != "ok" for call in calls),
        "training/n_sampled_tokens": tree.sampled_tokens,
        "training/merge_ratio": tree.merge_ratio,
        "training/drift_tokens": tree.drift_tokens,
        "training/samples_without_logprobs": tree.samples_without_logprobs,
    }
    for cause, count in tree.forks.items():
        metrics[f"training/forks_{cause.value}"] = count
    for name, causes in _MISMATCHES.items():
        count = sum(tree.forks[cause] for cause in causes)
        metrics[f"training/{name}_mismatch_triplets"] = count
        metrics[f"training/{name}_mismatch_ratio"] = count / max(1, tree.calls)
    return {name: float(value) for name, value in metrics.items()}
