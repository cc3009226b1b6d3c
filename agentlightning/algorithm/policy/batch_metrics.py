"""The data metrics of a step: what was sampled, what of it is trained, and how good it was.

Names of 0.3.0 are kept where it has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from agentlightning.adapter.token_row import ForkCause, TreeReport
from agentlightning.algorithm.policy.diagnosis import mixed_share
from agentlightning.algorithm.policy.overlong import cut_answers

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.learning.batch import BatchReport
    from agentlightning.learning.credit import ScoredRollout
    from agentlightning.learning.rows import RowBatch

__all__ = ["data_metrics", "mean_by_source"]

# Compat 0.3.0: the names under which it tells why turns did not merge.
_MISMATCHES = {
    "template": (ForkCause.TEMPLATE, ForkCause.TOOL_JSON, ForkCause.WHITESPACE),
    "retoken": (ForkCause.RETOKEN,),
    "others": (ForkCause.TRUNCATED, ForkCause.EDITED, ForkCause.DRIFT, ForkCause.TOOLS),
}


def data_metrics(
    outcomes: Sequence[RolloutOutcome],
    rollouts: Sequence[ScoredRollout],
    tree: TreeReport,
    batch: RowBatch,
    report: BatchReport,
) -> dict[str, float]:
    """Return the metrics of a step's data by full name; all finite.

    Args:
        outcomes: All rollouts of the step.
        rollouts: The same, scored.
        tree: How their calls became rows.
        batch: What of them is trained.
        report: What became of the groups.
    """
    metrics: dict[str, float] = {
        **_rewards(outcomes),
        **_by_role(rollouts),
        **_counts(outcomes, tree),
        "training/n_groups": report.groups,
        "training/n_zero_adv_groups": report.zero_signal_groups,
        "training/mixed_group_share": mixed_share(outcomes),
        "training/group_use": len({row.group_id for row in batch}) / max(1, report.groups),
        "training/n_trained_tokens": batch.n_trained,
        "training/n_wasted_tokens": tree.sampled_tokens - batch.n_trained,
    }
    for cause, count in tree.forks.items():
        metrics[f"training/forks_{cause.value}"] = count
    for masked, count in tree.masked_tokens.items():
        metrics[f"training/masked_tokens_{masked.value}"] = count
    for name, causes in _MISMATCHES.items():
        count = sum(tree.forks[cause] for cause in causes)
        metrics[f"training/{name}_mismatch_triplets"] = count
        metrics[f"training/{name}_mismatch_ratio"] = count / max(1, tree.calls)
    return {name: float(value) for name, value in metrics.items()}


def _counts(outcomes: Sequence[RolloutOutcome], tree: TreeReport) -> dict[str, float]:
    calls = [call for outcome in outcomes for call in outcome.calls]
    turns = sum(call.trained and call.outcome == "ok" for call in calls)
    return {
        "training/n_rollouts": len(outcomes),
        "training/n_rollouts_w_trace": sum(outcome.has_tokens for outcome in outcomes),
        "training/n_rollouts_failed": sum(outcome.outcome != "ok" for outcome in outcomes),
        "training/n_calls": len(calls),
        "training/n_calls_failed": sum(call.outcome != "ok" for call in calls),
        "training/n_triplets": tree.samples,
        "training/n_truncated_triplets": cut_answers(tuple(calls)),
        "training/turn_count": turns / max(1, len(outcomes)),
        "training/mean_response_length": tree.sampled_tokens / max(1, tree.samples),
        "training/n_sampled_tokens": tree.sampled_tokens,
        "training/merge_ratio": tree.merge_ratio,
        "training/drift_tokens": tree.drift_tokens,
        "training/samples_without_logprobs": tree.samples_without_logprobs,
    }


def _rewards(outcomes: Sequence[RolloutOutcome]) -> dict[str, float]:
    rewards = [outcome.reward for outcome in outcomes if outcome.reward is not None]
    sources = mean_by_source((outcome.task, outcome.reward) for outcome in outcomes)
    return {
        "training/reward": float(np.mean(rewards)) if rewards else 0.0,
        "training/reward_std": float(np.std(rewards)) if rewards else 0.0,
        "training/n_rollouts_w_reward": len(rewards),
        **{f"training/{source}/reward": mean for source, mean in sources.items()},
        **{f"training/{name}/reward": mean for name, mean in _by_dimension(outcomes).items()},
    }


def _by_dimension(outcomes: Sequence[RolloutOutcome]) -> dict[str, float]:
    """Return the mean of each dimension, where rewards have several."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        given = outcome.earned.dimensions if outcome.earned and outcome.outcome == "ok" else {}
        for name, value in given.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(v)) for name, v in found.items()} if len(found) > 1 else {}


def mean_by_source(scored: Iterable[tuple[Any, float | None]]) -> dict[str, float]:
    """Return the mean reward of each data source: the task's member `data_source`, if it has one.

    Example:
        >>> mean_by_source([({"data_source": "gsm8k"}, 1.0), ({"data_source": "gsm8k"}, 0.0)])
        {'gsm8k': 0.5}
    """
    found: dict[str, list[float]] = {}
    for task, reward in scored:
        members = cast("Mapping[str, Any]", task) if isinstance(task, Mapping) else {}
        source = members.get("data_source")
        if isinstance(source, str) and reward is not None:
            found.setdefault(source, []).append(reward)
    return {source: float(np.mean(rewards)) for source, rewards in found.items()}


def _by_role(rollouts: Sequence[ScoredRollout]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for rollout in rollouts:
        for role in {call.role for call in rollout.calls} & rollout.role_rewards.keys():
            found.setdefault(role, []).append(rollout.role_rewards[role])
    known = {role: [v for v in rewards if not np.isnan(v)] for role, rewards in found.items()}
    return {f"training/{r}/reward": float(np.mean(v)) for r, v in known.items() if v}
