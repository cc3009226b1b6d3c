"""Generalised advantage estimation over one row of tokens, for algorithms with a critic.

Pure numpy, one row at a time. Tokens that the policy did not sample (observations, tool results)
are not decisions: value and advantage are carried across them unchanged.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["discounted_returns", "gae", "whiten"]

Floats = NDArray[np.float64]


def gae(
    reward_T: Floats,
    value_T: Floats,
    mask_T: NDArray[np.bool_],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> tuple[Floats, Floats]:
    """Compute advantages and returns (arXiv:1506.02438), skipping tokens outside the mask.

    `delta_t = r_t + gamma V_next - V_t` and `A_t = delta_t + gamma lam A_next`, where "next" is
    the next token that the policy sampled.

    Returns:
        Advantages and returns (`A + V`), both 0 outside the mask.
    """
    advantage_T, return_T = np.zeros(len(mask_T)), np.zeros(len(mask_T))
    next_value, next_advantage = 0.0, 0.0
    for t in np.flatnonzero(mask_T)[::-1]:
        delta = reward_T[t] + gamma * next_value - value_T[t]
        next_advantage = delta + gamma * lam * next_advantage
        next_value = value_T[t]
        advantage_T[t], return_T[t] = next_advantage, next_advantage + next_value
    return advantage_T, return_T


def discounted_returns(
    reward_T: Floats, mask_T: NDArray[np.bool_], *, gamma: float = 1.0
) -> Floats:
    """Sum each sampled token's own and later rewards, discounted per *sampled* token.

    Returns:
        `G_t = r_t + gamma G_next` on the mask, 0 elsewhere.
    """
    return gae(reward_T, np.zeros(len(mask_T)), mask_T, gamma=gamma)[1]


def whiten(values_K: Floats, *, eps: float = 1e-8) -> Floats:
    """Shift and scale values to mean 0 and, unless they hardly differ, variance 1.

    `(x - mean) / sqrt(variance + eps)` with the unbiased variance; a single value becomes 0.
    """
    deviation = np.sqrt(values_K.var(ddof=1) + eps) if len(values_K) > 1 else 1.0
    return (values_K - values_K.mean()) / deviation if len(values_K) else values_K
