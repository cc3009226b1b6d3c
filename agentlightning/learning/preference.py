"""Preference losses: DPO and KTO, as values and slopes.

Log-probabilities in, a loss and its derivative by each log-probability out; plain numpy in fp64. As
the gradient of the model is the sum of slope times gradient of the log-probability, whoever scores
the answers first can then train with the `linear` loss, however the answers are packed.

Arrays are indexed `_P` by pair or `_B` by answer; log-probabilities are sums over an answer's
trained tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelLoss", "PairKind", "PairLoss", "PairScores", "dpo_loss", "kto_loss"]

PairKind = Literal["sigmoid", "ipo"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScores:
    """What policy and reference think of the two answers of each pair."""

    chosen: Floats
    rejected: Floats
    reference_chosen: Floats
    reference_rejected: Floats
    chosen_tokens: Floats
    rejected_tokens: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class PairLoss:
    """A loss per pair, to be averaged, and its derivatives."""

    value: Floats
    chosen_slope: Floats
    """Derivative by the policy's log-probability of the better answer."""
    rejected_slope: Floats
    chosen_reward: Floats
    """Implicit reward: `beta` times the log-ratio to the reference."""
    rejected_reward: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLoss:
    """A loss per answer, to be averaged, and its derivative."""

    value: Floats
    slope: Floats
    reward: Floats


def dpo_loss(
    scores: PairScores,
    *,
    beta: float = 0.1,
    kind: PairKind = "sigmoid",
    label_smoothing: float = 0.0,
) -> PairLoss:
    """Compute the loss of direct preference optimisation.

    With `h` the difference of the log-ratios: `sigmoid` is `-log s(beta h)` (arXiv:2305.18290,
    eq. 7), with label smoothing `e` conservative DPO's `-(1 - e) log s(beta h) - e log s(-beta h)`;
    `ipo` is `(h - 1 / (2 beta))^2` (arXiv:2310.12036, eq. 17) with log-ratios per token, as its
    authors use it.

    Args:
        scores: The log-probabilities.
        beta: Strength of the pull towards the reference.
        kind: Which loss.
        label_smoothing: Share of pairs, 0 to 0.5, that are assumed to be labelled the wrong way;
            `sigmoid` only.
    """
    chosen_P = scores.chosen - scores.reference_chosen
    rejected_P = scores.rejected - scores.reference_rejected
    chosen_unit_P, rejected_unit_P = np.ones_like(chosen_P), np.ones_like(rejected_P)
    if kind == "ipo":
        chosen_unit_P = 1.0 / np.maximum(scores.chosen_tokens, 1.0)
        rejected_unit_P = 1.0 / np.maximum(scores.rejected_tokens, 1.0)
        gap_P = chosen_P * chosen_unit_P - rejected_P * rejected_unit_P - 1.0 / (2.0 * beta)
        value_P, slope_P = gap_P**2, 2.0 * gap_P
    else:
        e, logit_P = label_smoothing, beta * (chosen_P - rejected_P)
        value_P = -(1.0 - e) * _log_sigmoid(logit_P) - e * _log_sigmoid(-logit_P)
        slope_P = beta * (e * _sigmoid(logit_P) - (1.0 - e) * _sigmoid(-logit_P))
    return PairLoss(
        value=value_P,
        chosen_slope=slope_P * chosen_unit_P,
        rejected_slope=-slope_P * rejected_unit_P,
        chosen_reward=beta * chosen_P,
        rejected_reward=beta * rejected_P,
    )


def kto_loss(
    logp_B: Floats,
    reference_B: Floats,
    good_B: NDArray[np.bool_],
    *,
    beta: float = 0.1,
    reference_point: float = 0.0,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> LabelLoss:
    """Compute the loss of Kahneman-Tversky optimisation (arXiv:2402.01306, eq. 7 and 8).

    Args:
        logp_B: Log-probabilities under the policy.
        reference_B: The same under the reference.
        good_B: Which answers are good.
        beta: Strength of the pull towards the reference.
        reference_point: `z0`, the distance of policy and reference that log-ratios are compared
            with; a constant for the gradient.
        good_weight: Weight of good answers.
        bad_weight: Weight of bad ones.
    """
    ratio_B = logp_B - reference_B
    sign_B, weight_B = np.where(good_B, 1.0, -1.0), np.where(good_B, good_weight, bad_weight)
    gain_B = _sigmoid(sign_B * beta * (ratio_B - reference_point))
    return LabelLoss(
        value=weight_B * (1.0 - gain_B),
        slope=-weight_B * sign_B * beta * gain_B * (1.0 - gain_B),
        reward=beta * ratio_B,
    )


def _log_sigmoid(values: Floats) -> Floats:
    return -np.logaddexp(0.0, -values)


def _sigmoid(values: Floats) -> Floats:
    return np.exp(_log_sigmoid(values))
