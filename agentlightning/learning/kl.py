"""Per-token estimates of the KL divergence from a reference policy (Schulman, "Approximating KL
divergence", 2020), from log-probabilities of sampled tokens alone.

Pure torch, elementwise. The estimates are for tokens that the policy itself sampled.
"""

from typing import Literal

import torch
from torch import Tensor

from agentlightning.errors import ConfigurationError

__all__ = ["KlKind", "kl_estimate", "kl_penalty"]

KlKind = Literal["k1", "k2", "k3"]


def kl_estimate(kind: KlKind, logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """Estimate `KL(pi || ref)` per token.

    With `d = logp - reference`: k1 is `d`, k2 is `d^2 / 2`, k3 is `exp(-d) - 1 + d` clamped to
    [-10, 10], which is never negative and has low variance.
    """
    d_N = logp_N - reference_N
    if kind == "k1":
        return d_N
    if kind == "k2":
        return 0.5 * d_N**2
    if kind == "k3":
        return (torch.exp(-d_N.clamp(-20.0, 20.0)) - 1.0 + d_N).clamp(-10.0, 10.0)
    raise ConfigurationError(f"unknown KL estimate {kind!r}; choose k1, k2 or k3")


def kl_penalty(
    kind: KlKind, logp_N: Tensor, reference_N: Tensor, old_N: Tensor, *, unbiased: bool
) -> Tensor:
    """Return the estimate as a loss term.

    With `unbiased` it is multiplied by the differentiable ratio `pi / pi_anchor`, whose gradient
    restores that of the reverse KL: differentiating an estimate alone forgets that the samples'
    distribution moves too.
    """
    estimate_N = kl_estimate(kind, logp_N, reference_N)
    if not unbiased:
        return estimate_N
    return torch.exp((logp_N - old_N).clamp(-20.0, 20.0)) * estimate_N
