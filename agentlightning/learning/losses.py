"""Policy losses: one value per trained token, to be summed with the weight stream.

Pure torch functions on flat tensors indexed `_N`, one entry per trained token; observation
tokens never reach this file. No averaging happens here: `weights` decided the shares. All
losses are to be minimised and, on policy and before any clipping, have the gradient of
`-advantage * logp`.

`register_loss` adds a loss; `LossSpec.name` chooses one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from agentlightning.errors import ComponentNotFoundError
from agentlightning.learning.correction import CorrectionKind
from agentlightning.learning.kl import KlKind

__all__ = [
    "LossSpec",
    "LossValues",
    "TokenBatch",
    "loss_names",
    "policy_loss",
    "register_loss",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSpec:
    """What one training step minimises, in how many updates; a value, stored with the run."""

    name: str = "ppo_clip"
    anchor: Literal["rollout", "trainer"] = "rollout"
    """The policy that ratios are taken against: the one that sampled (log-probabilities of the
    engine; the ratio then corrects for staleness by itself), or the trainer's own before the step,
    with `correction` making up for the difference between the two."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    """Ratio bounds `1 - clip_low` and `1 + clip_high` (clip-higher: DAPO, arXiv:2503.14476)."""

    dual_clip: float | None = 3.0
    """Cap on the loss of a token with negative advantage, in advantages; None turns it off."""

    log_ratio_clamp: float = 20.0
    """Log-ratios are cut to plus or minus this before `exp`."""

    tau_positive: float = 1.0
    tau_negative: float = 1.05
    """SAPO's gate temperatures for positive and negative advantages."""

    is_cap: float = 2.0
    """Cap on the importance weight of `reinforce_is`."""

    tv_limit: float = 0.2
    """How far `dppo_tv` lets a token's probability move before it drops the token."""

    tv_coef: float = 1e-3
    """Factor of `dppo_tv`'s squared log-ratio."""

    off_policy_mask: float | None = None
    """With any loss, leave out sequences with a negative advantage whose tokens' mean of
    `log(pi_anchor / pi)` exceeds this: mistakes that the policy no longer makes (off-policy
    sequence masking, DeepSeek-V3.2, arXiv:2512.02556). None keeps all."""

    correction: CorrectionKind = "token_tis"
    """How `anchor="trainer"` weighs tokens that another policy sampled; see `correction`."""

    correction_low: float = 0.5
    correction_high: float = 2.0
    """Bounds of the correction; the truncating kinds use only the upper one."""

    kl_coef: float = 0.0
    """Factor of the penalty on the distance to the reference model; 0 skips its forward pass."""

    kl_kind: KlKind = "k3"
    kl_unbiased: bool = True
    """Multiply the estimate by the differentiable ratio, so that its gradient is the reverse
    KL's (a k3 loss alone has another gradient)."""

    entropy_coef: float = 0.0
    """Factor of the entropy bonus."""

    epochs: int = 1
    """Passes over the batch."""

    mini_batches: int = 1
    """Updates per pass, each on a part of the groups."""


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """The trained tokens of one or more whole rows."""

    logp: Tensor
    """Log-probability under the current policy; the only tensor with a gradient."""

    old: Tensor
    """Log-probability under the anchor policy."""

    advantage: Tensor
    row: Tensor
    """Row number of each token, for the losses that look at whole sequences."""

    n_rows: int

    def ratio(self, spec: LossSpec) -> Tensor:
        """`pi / pi_anchor` of each token, its logarithm clamped."""
        c = spec.log_ratio_clamp
        return torch.exp((self.logp - self.old).clamp(-c, c))

    def row_mean(self, values_N: Tensor) -> Tensor:
        """Average over each row's tokens, given back per token."""
        zeros_R = values_N.new_zeros(self.n_rows)
        sums_R = zeros_R.index_add(0, self.row, values_N)
        counts_R = zeros_R.index_add(0, self.row, torch.ones_like(values_N))
        return (sums_R / counts_R.clamp(min=1.0))[self.row]


class LossValues(NamedTuple):
    """A loss per token, and which tokens got no gradient because of a trust region."""

    value: Tensor
    clipped: Tensor


class PolicyLoss(Protocol):
    """Maps trained tokens to loss values."""

    def __call__(self, batch: TokenBatch, spec: LossSpec, /) -> LossValues: ...


_LOSSES: dict[str, PolicyLoss] = {}


def register_loss(name: str) -> Callable[[PolicyLoss], PolicyLoss]:
    """Register a loss under `name`, replacing an earlier one of that name."""

    def register(loss: PolicyLoss) -> PolicyLoss:
        _LOSSES[name] = loss
        return loss

    return register


def loss_names() -> list[str]:
    """Return the registered losses' names, sorted."""
    return sorted(_LOSSES)


def policy_loss(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """Compute the loss that `spec` names.

    Raises:
        ComponentNotFoundError: No loss has that name.
    """
    if spec.name not in _LOSSES:
        raise ComponentNotFoundError(f"no loss called {spec.name!r}; known: {', '.join(_LOSSES)}")
    found = _LOSSES[spec.name](batch, spec)
    if spec.off_policy_mask is None:
        return found
    gone_N = batch.row_mean((batch.old - batch.logp).detach()) > spec.off_policy_mask
    dropped_N = gone_N & (batch.advantage < 0)
    value_N = torch.where(dropped_N, torch.zeros_like(found.value), found.value)
    return LossValues(value_N, found.clipped | dropped_N)


def _clip_loss(ratio_N: Tensor, advantage_N: Tensor, spec: LossSpec) -> LossValues:
    free_N = -ratio_N * advantage_N
    held_N = -ratio_N.clamp(1.0 - spec.clip_low, 1.0 + spec.clip_high) * advantage_N
    value_N = torch.maximum(free_N, held_N)
    clipped_N = held_N > free_N
    if spec.dual_clip is not None:
        # Why: with a negative advantage the loss grows with the ratio without bound
        # (arXiv:1912.09729).
        cap_N = -spec.dual_clip * advantage_N
        capped_N = (advantage_N < 0) & (value_N > cap_N)
        value_N = torch.where(capped_N, cap_N, value_N)
        clipped_N = clipped_N | capped_N
    return LossValues(value_N, clipped_N)


@register_loss("ppo_clip")
def ppo_clip(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """PPO's clipped surrogate, with asymmetric and dual clipping (arXiv:1707.06347)."""
    return _clip_loss(batch.ratio(spec), batch.advantage, spec)


@register_loss("gspo")
def gspo(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """GSPO: one ratio per sequence, the mean of its tokens' log-ratios (arXiv:2507.18071).

    Useful clips are far smaller than PPO's: `clip_low=3e-4, clip_high=4e-4`, `dual_clip=None`.
    """
    mean_N = batch.row_mean((batch.logp - batch.old).detach())
    # The sequence's value with each token's own gradient: s * exp(logp - sg(logp)).
    token_N = mean_N + batch.logp - batch.logp.detach()
    c = spec.log_ratio_clamp
    return _clip_loss(torch.exp(token_N.clamp(-c, c)), batch.advantage, spec)


@register_loss("cispo")
def cispo(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """CISPO: a clipped, detached ratio weighs the log-likelihood (arXiv:2506.13585).

    No token loses its gradient. Usual clips: `clip_low=1.0, clip_high=4.0` (a cap of 5).
    """
    ratio_N = batch.ratio(spec).detach()
    held_N = ratio_N.clamp(1.0 - spec.clip_low, 1.0 + spec.clip_high)
    return LossValues(-held_N * batch.advantage * batch.logp, held_N != ratio_N)


@register_loss("sapo")
def sapo(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """SAPO: a sigmoid gate in place of the clip (arXiv:2511.20347)."""
    ratio_N = batch.ratio(spec)
    tau_N = torch.where(batch.advantage > 0, spec.tau_positive, spec.tau_negative)
    gate_N = torch.sigmoid(tau_N * (ratio_N - 1.0)) * 4.0 / tau_N
    return LossValues(-gate_N * batch.advantage, torch.zeros_like(gate_N, dtype=torch.bool))


@register_loss("linear")
def linear(batch: TokenBatch, spec: LossSpec) -> LossValues:  # noqa: ARG001 - protocol
    """The advantage-weighted likelihood: with advantages 1, supervised learning's.

    Nothing is compared with the policy that sampled, so it takes answers from anywhere.
    """
    value_N = -batch.advantage * batch.logp
    return LossValues(value_N, torch.zeros_like(value_N, dtype=torch.bool))


@register_loss("reinforce_is")
def reinforce_is(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """REINFORCE with a truncated importance weight against the anchor policy."""
    ratio_N = batch.ratio(spec).detach()
    held_N = ratio_N.clamp(max=spec.is_cap)
    return LossValues(-held_N * batch.advantage * batch.logp, held_N != ratio_N)


@register_loss("dppo_tv")
def dppo_tv(batch: TokenBatch, spec: LossSpec) -> LossValues:
    """DPPO: drop tokens whose *probability* moved too far, instead of their ratio.

    A rare token may change its ratio a lot without moving the policy (arXiv:2602.04879). Tokens
    are dropped where an update in the advantage's direction would take the probability further
    than `tv_limit` from the anchor's; all pay `tv_coef` times the squared log-ratio.
    """
    moved_N = batch.logp.detach().exp() - batch.old.exp()
    sign_N = torch.sign(batch.advantage)
    dropped_N = moved_N * sign_N > spec.tv_limit
    c = spec.log_ratio_clamp
    log_ratio_N = (batch.logp - batch.old).clamp(-c, c)
    surrogate_N = -log_ratio_N.exp() * batch.advantage
    value_N = torch.where(dropped_N, torch.zeros_like(surrogate_N), surrogate_N)
    return LossValues(value_N + spec.tv_coef * log_ratio_N**2, dropped_N)
