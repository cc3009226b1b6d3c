"""The objective of one pack: scores of tokens in, the weighted loss and its statistics out.

Joins the packed forward pass with the losses. Tensors are indexed `_K`, one entry per trained
token of the pack's rows.
"""

from dataclasses import dataclass, field

import torch
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
    """Sums over the trained tokens of a step; `metrics` makes averages of them."""

    n: int = 0
    loss: float = 0.0
    sums: dict[str, float] = field(default_factory=dict[str, float])
    peaks: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, name: str, values_K: Tensor) -> None:
        """Add values to be averaged over tokens."""
        self.sums[name] = self.sums.get(name, 0.0) + float(values_K.double().sum())

    def peak(self, name: str, values_K: Tensor) -> None:
        """Keep the largest of all values."""
        self.peaks[name] = max(self.peaks.get(name, float("-inf")), float(values_K.max()))

    def metrics(self) -> dict[str, float]:
        """Return token averages, peaks and the effective sample size, by metric name."""
        n = max(self.n, 1)
        sums = dict(self.sums)
        squares, total = sums.pop("ratio_squared", 0.0), sums.get("ratio_mean", 0.0)
        named = {name: value / n for name, value in sums.items()} | self.peaks
        named["ess"] = total**2 / (n * squares) if squares else 0.0
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
        value_K = value_K * correction_factor(
            spec.correction,
            old_K,
            rollout_K,
            row_K,
            low=spec.correction_low,
            high=spec.correction_high,
        )
    if spec.kl_coef:
        ref_K = stream("logp_ref")
        penalty_K = kl_penalty(spec.kl_kind, logp_K, ref_K, old_K, unbiased=spec.kl_unbiased)
        value_K = value_K + spec.kl_coef * penalty_K
        statistics.add("kl_reference", kl_estimate("k3", logp_K.detach(), ref_K))
    if spec.entropy_coef and scores.entropy is not None:
        value_K = value_K - spec.entropy_coef * scores.entropy[pair_K]
    total = (weight_K * value_K).sum()
    if not torch.isfinite(total):
        raise NonFiniteLossError(_diagnosis(pack, logp_K, value_K))
    statistics.loss += float(total.detach())
    _observe(statistics, logp_K.detach(), rollout_K, clipped_K)
    if scores.entropy is not None:
        statistics.add("entropy", scores.entropy.detach()[pair_K])
    return total


def _observe(statistics: StepStatistics, logp_K: Tensor, rollout_K: Tensor, clip_K: Tensor) -> None:
    """Compare the policy with the one that sampled."""
    difference_K = logp_K - rollout_K
    ratio_K = difference_K.clamp(-20.0, 20.0).exp()
    statistics.n += len(logp_K)
    statistics.add("ratio_mean", ratio_K)
    statistics.add("ratio_squared", ratio_K**2)
    statistics.peak("ratio_max", ratio_K)
    statistics.add("clip_fraction", clip_K)
    # KL(mu || pi) from samples of mu: E[r - 1 - log r].
    statistics.add("kl", kl_estimate("k3", rollout_K, logp_K))
    statistics.add("logp_difference", difference_K.abs())
    statistics.peak("logp_difference_max", difference_K.abs())


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
