"""From scored rollouts to a batch: advantages per rollout, then streams per row.

The order matters. Advantages are estimated over all rollouts, whatever number of rows each has;
only then are rows without a signal dropped, and only then are weights shared out among the rows
that stay. Numpy only, no state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from agentlightning.adapter.token_row import TokenRow
from agentlightning.learning.advantages import (
    AdvantageOptions,
    Advantages,
    Scores,
    estimate_advantages,
)
from agentlightning.learning.rows import RowBatch, TrainRow
from agentlightning.learning.weights import Aggregate, Shares, row_weights

__all__ = ["BatchReport", "BatchSpec", "ScoredRollout", "build_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout:
    """A finished rollout with its rows and its reward."""

    rollout_id: str
    group_id: str
    """Equal for the rollouts of one task that are compared with one another."""

    rows: Sequence[TokenRow]
    reward: float
    """NaN means "not scored": left out of the baseline and not trained."""

    fallback_baseline: float = 0.0
    """What to compare with when no other member of the group was scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """How rewards become advantages and shares."""

    advantage: str = "group"
    options: AdvantageOptions = field(default_factory=AdvantageOptions)
    aggregate: Aggregate = "rollout_mean"
    length: float | None = None
    """Constant length of the aggregates that divide by one, in tokens."""

    zero_signal: Literal["drop", "keep"] = "drop"
    """Whether rollouts of groups with equal rewards leave the batch and its denominators, or
    stay, with advantage 0, and so shrink everyone else's share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What became of the rollouts."""

    rollouts: int
    unscored: int
    zero_signal: int
    zero_signal_groups: int
    groups: int
    without_rows: int
    """Scored rollouts with nothing to train."""

    advantages: dict[str, float]
    """Advantage of each rollout, by its id."""


def build_batch(
    rollouts: Sequence[ScoredRollout],
    spec: BatchSpec | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[RowBatch, BatchReport]:
    """Estimate advantages and lay out the rows to train.

    The batch may come out empty, for instance when every group was of one mind; `RowBatch
    .require_signal` tells.

    Args:
        rollouts: Whole groups, failed members included under the caller's policy.
        spec: The choices.
        temperature: Sampling temperature of these rollouts.
    """
    spec = spec or BatchSpec()
    found = _advantages(rollouts, spec)
    trained = found.scored if spec.zero_signal == "keep" else found.scored & ~found.zero_signal
    kept = [
        (rollout, row, float(advantage))
        for rollout, advantage, keep in zip(rollouts, found.value, trained, strict=True)
        for row in rollout.rows
        if keep
    ]
    shares = Shares.of(
        [int(row.mask.sum()) for _, row, _ in kept],
        [rollout.rollout_id for rollout, _, _ in kept],
        [rollout.group_id for rollout, _, _ in kept],
    )
    weights = row_weights(spec.aggregate, shares, length=spec.length)
    rows = tuple(
        _train_row(rollout, row, advantage, float(weight))
        for (rollout, row, advantage), weight in zip(kept, weights, strict=True)
    )
    return RowBatch(rows, temperature), _report(rollouts, found)


def _advantages(rollouts: Sequence[ScoredRollout], spec: BatchSpec) -> Advantages:
    scores = Scores.of(
        [rollout.reward for rollout in rollouts],
        [rollout.group_id for rollout in rollouts],
        lengths=[sum(int(row.mask.sum()) for row in rollout.rows) for rollout in rollouts],
        fallback=[rollout.fallback_baseline for rollout in rollouts],
    )
    return estimate_advantages(spec.advantage, scores, spec.options)


def _train_row(rollout: ScoredRollout, row: TokenRow, advantage: float, weight: float) -> TrainRow:
    mask = row.mask.astype(np.float32)
    return TrainRow(
        ids=row.ids,
        mask=row.mask,
        logp_rollout=row.logp,
        adv=mask * np.float32(advantage),
        weight=mask * np.float32(weight),
        versions=row.versions,
        rollout_id=rollout.rollout_id,
        group_id=rollout.group_id,
        role=row.role,
        call_ids=row.call_ids,
    )


def _report(rollouts: Sequence[ScoredRollout], found: Advantages) -> BatchReport:
    flat = {r.group_id for r, zero in zip(rollouts, found.zero_signal, strict=True) if zero}
    return BatchReport(
        rollouts=len(rollouts),
        unscored=int((~found.scored).sum()),
        zero_signal=int(found.zero_signal.sum()),
        zero_signal_groups=len(flat),
        groups=len({rollout.group_id for rollout in rollouts}),
        without_rows=sum(
            1 for r, scored in zip(rollouts, found.scored, strict=True) if scored and not r.rows
        ),
        advantages={
            rollout.rollout_id: float(value)
            for rollout, value in zip(rollouts, found.value, strict=True)
        },
    )
