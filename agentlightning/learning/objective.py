"""The objective of one pack: scores of tokens in, the weighted loss and its statistics out.

Joins the packed forward pass with the losses. Tensors are indexed `_K`, one entry per trained
token of the pack's rows.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlightning.errors import NonFiniteLossError
from agentlightning.learning.correction import correction_factor
from agentlightning.learning.kl import kl_estimate, kl_penalty
from agentlightning.learning.logprobs import TokenScores
from agentlightning.learning.losses import LossSpec, TokenBatch, policy_loss
from agentlightning.learning.packing import PackedBatch

__all__ = ["StepStatistics", "objective"]


@dataclass(slots=True)
class StepStatistics:
    """What a step's trained tokens were like; `metrics` makes averages and quantiles of it."""

    n: int = 0
    loss: float = 0.0
    sums: dict[str, float] = field(default_factory=dict[str, float])
    peaks: dict[str, float] = field(default_factory=dict[str, float])
    ratios: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])
    extreme: tuple[float, str] = (1.0, "")
    """The ratio that is farthest from 1, and the rollout it occurred in."""

    def add(self, name: str, values_K: Tensor) -> None:
        """Add values to be averaged over tokens."""
        # Why on the CPU: some devices have no fp64, and sums over many tokens want it.
        self.sums[name] = self.sums.get(name, 0.0) + float(values_K.cpu().double().sum())

    def peak(self, name: str, values_K: Tensor) -> None:
        """Keep the largest of all values."""
        self.peaks[name] = max(self.peaks.get(name, float("-inf")), float(values_K.max()))

    def merge(self, other: "StepStatistics") -> None:
        """Add what another process saw."""
        self.n += other.n
        self.loss += other.loss
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        for name, value in other.peaks.items():
            self.peaks[name] = max(self.peaks.get(name, float("-inf")), value)
        self.ratios.extend(other.ratios)
        self.extreme = max(self.extreme, other.extreme, key=lambda e: abs(math.log(e[0])))

    def metrics(self) -> dict[str, float]:
        """Return averages and peaks over tokens, and the spread of the ratios, by metric name.

        `chi2` is `E[r^2] - 1` under the sampling policy, `ess` the effective sample size as a
        share of the tokens.
        """
        n = max(self.n, 1)
        named = {name: value / n for name, value in self.sums.items()} | self.peaks
        ratio_N = np.concatenate(self.ratios).astype(np.float64) if self.ratios else np.ones(1)
        named.setdefault("masked_fraction", 0.0)
        squares = float((ratio_N**2).mean())
        named["ratio_mean"], named["ratio_max"] = float(ratio_N.mean()), float(ratio_N.max())
        named["ratio_p95"], named["ratio_p99"] = map(float, np.quantile(ratio_N, (0.95, 0.99)))
        named["chi2"] = squares - 1.0
        named["ess"] = named["ratio_mean"] ** 2 / squares if squares else 0.0
        return {f"training/{name}": value for name, value in named.items()}


def objective(
    pack: PackedBatch, scores: TokenScores, spec: LossSpec, statistics: StepStatistics
) -> Tensor:
    """Compute the share of a pack in the step's loss, ready for `backward`.

    Args:
        pack: The packed rows, with advantages and weights.
        scores: Scores of the pack's pairs under the current policy.
        spec: The loss.
        statistics: Added to in place.

    Raises:
        NonFiniteLossError: The loss is NaN or infinite; the message names the rollouts.
    """
    device = scores.logp.device

    def stream(name: str) -> Tensor:
        return torch.from_numpy(pack.gather(name)).to(device)

    pair_K = torch.from_numpy(pack.token_pair).to(device)
    row_K = torch.from_numpy(pack.token_row).to(device)
    weight_K, logp_K = stream("weight"), scores.logp[pair_K]
    now_K = stream("logp_old") if pack.rows[0].logp_old is not None else logp_K.detach()
    rollout_K = stream("logp_rollout")
    rollout_K = torch.where(rollout_K.isnan(), now_K, rollout_K)
    old_K = rollout_K if spec.anchor == "rollout" else now_K
    tokens = TokenBatch(logp_K, old_K, stream("adv"), row_K, len(pack.rows))
    value_K, clipped_K = policy_loss(tokens, spec)
    if spec.anchor == "trainer":
        factor_K = correction_factor(
            spec.correction,
            old_K,
            rollout_K,
            row_K,
            low=spec.correction_low,
            high=spec.correction_high,
        )
        value_K = value_K * factor_K
        statistics.add("masked_fraction", factor_K == 0)
    if spec.kl_coef:
        ref_K = stream("logp_ref")
        penalty_K = kl_penalty(spec.kl_kind, logp_K, ref_K, old_K, unbiased=spec.kl_unbiased)
        value_K = value_K + spec.kl_coef * penalty_K
        statistics.add("kl_reference", kl_estimate("k3", logp_K.detach(), ref_K))
    if spec.entropy_coef and scores.entropy is not None:
        value_K = value_K - spec.entropy_coef * scores.entropy[pair_K]
    total = (weight_K * value_K).sum()
    if not torch.isfinite(total):
        raise NonFiniteLossError(_diagnosis(pack, logp_K, weight_K * value_K))
    statistics.loss += float(total.detach())
    _observe(statistics, pack, logp_K.detach().cpu(), rollout_K.cpu())
    statistics.add("clip_fraction", clipped_K)
    if scores.entropy is not None:
        statistics.add("entropy", scores.entropy.detach()[pair_K])
    return total


def _observe(
    statistics: StepStatistics, pack: PackedBatch, logp_K: Tensor, rollout_K: Tensor
) -> None:
    """Compare the policy with the one that sampled."""
    difference_K = logp_K - rollout_K
    ratio_K = difference_K.clamp(-20.0, 20.0).exp()
    statistics.n += len(logp_K)
    statistics.ratios.append(ratio_K.numpy())
    # KL(mu || pi) from samples of mu: E[r - 1 - log r].
    statistics.add("kl", kl_estimate("k3", rollout_K, logp_K))
    statistics.add("logp_difference", difference_K.abs())
    statistics.peak("logp_difference_max", difference_K.abs())
    worst = int(difference_K.abs().argmax())
    ratio, before = float(ratio_K[worst]), statistics.extreme[0]
    if abs(math.log(ratio)) >= abs(math.log(before)):
        statistics.extreme = (ratio, pack.rows[int(pack.token_row[worst])].rollout_id)


def _diagnosis(pack: PackedBatch, logp_K: Tensor, value_K: Tensor) -> str:
    bad_K = ~torch.isfinite(value_K)
    numbers = set(torch.from_numpy(pack.token_row)[bad_K.cpu()].tolist())
    names = sorted({pack.rows[n].rollout_id for n in numbers})
    model = int((~torch.isfinite(logp_K)).sum())
    return (
        f"the loss is not finite on {int(bad_K.sum())} of {len(bad_K)} tokens, rollouts "
        f"{names[:5]}; the model itself gave {model} log-probabilities that are not finite. "
        "Nothing was updated: restore a checkpoint if weights are NaN, else look at these rollouts"
    )
