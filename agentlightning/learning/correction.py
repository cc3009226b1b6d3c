"""Correction for sampling with another policy than the trainer's own (decoupled anchor).

The engine that sampled (`mu`) and the trainer before its step (`old`) may differ: other weights,
other kernels, other precision. `w = exp(logp_old - logp_mu)` measures it per token, and these
functions turn it into a factor on the loss. With the rollout as anchor the policy ratio already
contains `w`; correcting again would count it twice.

Pure torch on flat tensors indexed `_N`; results carry no gradient.
"""

from typing import Literal

import torch
from torch import Tensor

from agentlightning.errors import ConfigurationError

__all__ = ["CorrectionKind", "correction_factor"]

CorrectionKind = Literal["none", "token_tis", "icepop", "sequence_tis", "sequence_mask", "geo_mask"]


def correction_factor(
    kind: CorrectionKind,
    old_N: Tensor,
    rollout_N: Tensor,
    row_N: Tensor,
    *,
    low: float = 0.5,
    high: float = 2.0,
) -> Tensor:
    """Return the factor on each token's loss.

    | kind | factor |
    |---|---|
    | `none` | 1 |
    | `token_tis` | min(w, high), truncated importance sampling |
    | `icepop` | w where low <= w <= high, else 0 |
    | `sequence_tis` | min(product of the row's w, high) on each of its tokens |
    | `sequence_mask` | 1 where low <= product of the row's w <= high, else 0 |
    | `geo_mask` | 1 where low <= geometric mean of the row's w <= high, else 0 |

    A dropped token keeps its share of the denominators: weights are not renormalised.

    Args:
        kind: Which correction.
        old_N: Trainer log-probabilities before the step.
        rollout_N: Log-probabilities reported by the engine that sampled.
        row_N: Row number of each token, 0 and up.
        low: Lower bound of the masks.
        high: Cap, or upper bound of the masks.
    """
    log_w_N = (old_N - rollout_N).detach().clamp(-20.0, 20.0)
    w_N = log_w_N.exp()
    if kind == "none":
        return torch.ones_like(w_N)
    if kind == "token_tis":
        return w_N.clamp(max=high)
    if kind == "icepop":
        return torch.where((w_N >= low) & (w_N <= high), w_N, 0.0)
    n_rows = int(row_N.max()) + 1 if len(row_N) else 0
    sum_N = w_N.new_zeros(n_rows).index_add(0, row_N, log_w_N)[row_N]
    if kind == "sequence_tis":
        return sum_N.clamp(-20.0, 20.0).exp().clamp(max=high)
    if kind == "sequence_mask":
        return _inside(sum_N.exp(), low, high)
    if kind == "geo_mask":
        return _inside((sum_N / torch.bincount(row_N)[row_N]).exp(), low, high)
    raise ConfigurationError(f"unknown correction {kind!r}")


def _inside(values_N: Tensor, low: float, high: float) -> Tensor:
    return ((values_N >= low) & (values_N <= high)).to(values_N.dtype)
