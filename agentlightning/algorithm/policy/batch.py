"""From a step's outcomes to training batches and their metrics."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.algorithm.policy.batch_metrics import data_metrics
from agentlightning.algorithm.policy.scoring import score_rollouts
from agentlightning.learning.advantages import AdvantageOptions
from agentlightning.learning.batch import BatchSpec, build_batch
from agentlightning.learning.credit import CreditSpec
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.rows import RowBatch, TrainRow
from agentlightning.learning.splitting import split_by_adapter

if TYPE_CHECKING:
    from agentlightning.adapter.token_tree import Decode
    from agentlightning.algorithm.policy.config import PolicyConfig
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = [
    "batch_from_outcomes",
    "batch_spec",
    "batches_by_adapter",
    "loss_spec",
    "shuffle_stretches",
]


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


def batch_spec(config: PolicyConfig) -> BatchSpec:
    """Return how a configuration makes advantages and shares of rewards."""
    normalised = config.reward_combination == "normalise_then_sum"
    return BatchSpec(
        advantage=config.advantage,
        options=AdvantageOptions(scale=config.advantage_scale),
        credit=CreditSpec(
            kind=config.credit,
            discount=config.turn_discount,
            state_weight=config.state_weight,
        ),
        dimension_weights=dict(config.reward_weights or {}) if normalised else {},
        aggregate=config.aggregate,
        length=float(config.max_tokens),
        zero_signal="keep" if config.zero_signal == "keep" else "drop",
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
    rollouts, tree = score_rollouts(outcomes, config, decode=decode)
    batch, report = build_batch(rollouts, batch_spec(config), temperature=config.temperature)
    if config.shuffle_advantages:
        batch = _with_shuffled_advantages(batch, config, random.Random(seed))
    return batch, data_metrics(outcomes, rollouts, tree, batch, report)


def batches_by_adapter(
    outcomes: Sequence[RolloutOutcome],
    config: PolicyConfig,
    adapters: Mapping[str, str],
    *,
    seed: str,
    decode: Decode | None = None,
) -> tuple[dict[str, RowBatch], dict[str, float]]:
    """Build a batch for each adapter, of the calls of its roles, with denominators of its own.

    Args:
        outcomes: All rollouts of the step, failed ones included.
        config: As for `batch_from_outcomes`.
        adapters: Adapter name to a regular expression searched in roles; the first that matches
            has the call, and calls that none matches are context.
        seed: As for `batch_from_outcomes`.
        decode: Likewise.

    Returns:
        A batch for each adapter, empty where it has nothing to learn, and the metrics of all of
        them together, with each one's `training/{adapter}/n_trained_tokens`.
    """
    rollouts, tree = score_rollouts(outcomes, config, decode=decode)
    spec, rng = batch_spec(config), random.Random(seed)
    batches: dict[str, RowBatch] = {}
    for name, own in split_by_adapter(rollouts, adapters).items():
        batch, _ = build_batch(own, spec, temperature=config.temperature)
        if config.shuffle_advantages:
            batch = _with_shuffled_advantages(batch, config, rng)
        batches[name] = batch
    _, report = build_batch(rollouts, spec, temperature=config.temperature)
    together = RowBatch(
        tuple(row for batch in batches.values() for row in batch), config.temperature
    )
    metrics = data_metrics(outcomes, rollouts, tree, together, report)
    for name, batch in batches.items():
        metrics[f"training/{name}/n_trained_tokens"] = float(batch.n_trained)
    return batches, metrics


def _with_shuffled_advantages(
    batch: RowBatch, config: PolicyConfig, rng: random.Random
) -> RowBatch:
    """Hand out the same advantages without their meaning: to other rollouts, or other calls."""
    if config.credit != "rollout":
        return shuffle_stretches(batch, rng)
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


def shuffle_stretches(batch: RowBatch, rng: random.Random) -> RowBatch:
    """Shuffle the advantages of stretches of trained tokens that have the same one."""
    places = [(number, place) for number, row in enumerate(batch) for place in _stretches(row)]
    values = [float(batch.rows[number].adv[place.start]) for number, place in places]
    rng.shuffle(values)
    given = [row.adv.copy() for row in batch]
    for (number, place), value in zip(places, values, strict=True):
        given[number][place] = value
    rows = zip(batch.rows, given, strict=True)
    return replace(batch, rows=tuple(replace(row, adv=adv * row.mask) for row, adv in rows))


def _stretches(row: TrainRow) -> Iterator[slice]:
    trained = np.flatnonzero(row.mask)
    apart = (np.diff(trained) > 1) | (np.diff(row.adv[trained]) != 0)
    for part in np.split(trained, np.flatnonzero(apart) + 1):
        yield slice(int(part[0]), int(part[-1]) + 1)
