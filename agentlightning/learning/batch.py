"""From scored rollouts to a batch: advantages per rollout or call, then streams per row.

The order matters. Advantages are estimated over all rollouts, whatever number of rows each has;
only then are tokens without a signal dropped, and only then are weights shared out among those
that stay. Numpy only, no state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from agentlightning.adapter.token_row import RowSpan, TokenRow
from agentlightning.learning.advantages import (
    AdvantageOptions,
    Advantages,
    Scores,
    estimate_advantages,
    normalised_sum,
)
from agentlightning.learning.credit import Credited, CreditSpec, ScoredRollout, call_advantages
from agentlightning.learning.rows import RowBatch, TrainRow
from agentlightning.learning.weights import Aggregate, Shares, row_weights

__all__ = ["BatchReport", "BatchSpec", "ScoredRollout", "build_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """How rewards become advantages and shares."""

    advantage: str = "group"
    options: AdvantageOptions = field(default_factory=AdvantageOptions)
    credit: CreditSpec = field(default_factory=CreditSpec)
    dimension_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """If not empty, the rollout's advantage is not the estimator's but the sum of these dimensions'
    own, see `advantages.normalised_sum`."""

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
    """Advantage of each rollout, by its id: with credit by call, the mean over its tokens."""


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
    if spec.credit.kind != "rollout":
        return _build_by_call(rollouts, found, spec, temperature)
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
    groups = [rollout.group_id for rollout in rollouts]
    rewards = [rollout.reward for rollout in rollouts]
    if spec.dimension_weights:
        dimensions = [rollout.dimensions for rollout in rollouts]
        return normalised_sum(
            dimensions, spec.dimension_weights, Scores.of(rewards, groups), spec.options
        )
    scores = Scores.of(
        rewards,
        groups,
        lengths=[rollout.trained_tokens for rollout in rollouts],
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


@dataclass(frozen=True, slots=True)
class _Piece:
    """The trained spans of one row that have one owner."""

    row: int
    spans: tuple[RowSpan, ...]
    owner: tuple[str, str]
    group: tuple[str, str]

    @property
    def tokens(self) -> int:
        return sum(span.stop - span.start for span in self.spans)


def _build_by_call(
    rollouts: Sequence[ScoredRollout], found: Advantages, spec: BatchSpec, temperature: float
) -> tuple[RowBatch, BatchReport]:
    """Lay out rows whose calls have advantages of their own."""
    credited = call_advantages(
        rollouts, found, spec.credit, estimator=spec.advantage, options=spec.options
    )
    trained = credited.calls
    if spec.zero_signal == "drop":
        trained = tuple(
            {name: value for name, value in calls.items() if name not in flat}
            for calls, flat in zip(trained, credited.flat, strict=True)
        )
    laid_out = [
        (rollout, row, calls)
        for rollout, calls in zip(rollouts, trained, strict=True)
        for row in rollout.rows
    ]
    pieces = [
        piece
        for number, (rollout, row, calls) in enumerate(laid_out)
        for piece in _pieces(number, rollout, row, calls, by_role=spec.credit.kind == "agent")
    ]
    shares = Shares.of(
        [piece.tokens for piece in pieces],
        [piece.owner for piece in pieces],
        [piece.group for piece in pieces],
    )
    weights = row_weights(spec.aggregate, shares, length=spec.length)
    of_row: dict[int, list[tuple[_Piece, float]]] = {}
    for piece, weight in zip(pieces, weights, strict=True):
        of_row.setdefault(piece.row, []).append((piece, float(weight)))
    rows = tuple(
        _credited_row(*laid_out[number][:2], own, laid_out[number][2])
        for number, own in of_row.items()
    )
    return RowBatch(rows, temperature), _report_by_call(rollouts, found, credited)


def _pieces(
    number: int,
    rollout: ScoredRollout,
    row: TokenRow,
    calls: Mapping[str, float],
    *,
    by_role: bool,
) -> list[_Piece]:
    """Part a row's trained spans by owner: the rollout, or each role in it."""
    owned: dict[str, list[RowSpan]] = {}
    for span in row.spans:
        if span.trained and span.call_id in calls:
            owned.setdefault(span.role if by_role else "", []).append(span)
    return [
        _Piece(number, tuple(spans), (rollout.rollout_id, role), (rollout.group_id, role))
        for role, spans in owned.items()
    ]


def _credited_row(
    rollout: ScoredRollout,
    row: TokenRow,
    pieces: Sequence[tuple[_Piece, float]],
    calls: Mapping[str, float],
) -> TrainRow:
    mask = np.zeros(len(row.ids), dtype=np.bool_)
    adv = np.zeros(len(row.ids), dtype=np.float32)
    share = np.zeros(len(row.ids), dtype=np.float32)
    for piece, weight in pieces:
        for span in piece.spans:
            place = slice(span.start, span.stop)
            mask[place] = True
            adv[place] = calls[span.call_id]
            share[place] = weight
    return TrainRow(
        ids=row.ids,
        mask=mask,
        logp_rollout=row.logp,
        adv=adv,
        weight=share,
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


def _report_by_call(
    rollouts: Sequence[ScoredRollout], found: Advantages, credited: Credited
) -> BatchReport:
    plain = _report(rollouts, found)
    alive = {
        rollout.group_id
        for rollout, calls, flat in zip(rollouts, credited.calls, credited.flat, strict=True)
        if calls.keys() - flat
    }
    advantages: dict[str, float] = {}
    for rollout, calls in zip(rollouts, credited.calls, strict=True):
        sizes = rollout.call_tokens()
        total = sum(sizes[name] for name in calls)
        pull = sum(value * sizes[name] for name, value in calls.items())
        advantages[rollout.rollout_id] = pull / total if total else 0.0
    scored = [r for r, known in zip(rollouts, found.scored, strict=True) if known]
    return BatchReport(
        rollouts=plain.rollouts,
        unscored=plain.unscored,
        zero_signal=sum(rollout.group_id not in alive for rollout in scored),
        zero_signal_groups=len({rollout.group_id for rollout in scored} - alive),
        groups=plain.groups,
        without_rows=plain.without_rows,
        advantages=advantages,
    )
