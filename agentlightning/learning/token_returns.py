"""Advantages of single tokens without a critic: discounted returns, whitened over the batch.

What REINFORCE++ learns by (arXiv:2501.03262). Numpy only, on rows that carry their rollout's
advantage already.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agentlightning.errors import TrainingError
from agentlightning.learning.gae import discounted_returns
from agentlightning.learning.rows import RowBatch, TrainRow

__all__ = ["Stream", "whitened_returns"]

Stream = NDArray[np.float32]


def whitened_returns(
    batch: RowBatch,
    *,
    discount: float = 1.0,
    penalties: Sequence[Stream] | None = None,
    eps: float = 1e-8,
) -> RowBatch:
    """Replace each row's advantage by whitened returns of its tokens.

    The row's advantage `A` is the reward of its last trained token, and every trained token pays
    its penalty: `G_t = r_t + discount * G_next`, over trained tokens only. Then
    `(G - mean) / sqrt(variance + eps)`, with the unbiased variance, over all trained tokens of the
    batch. Rows of one rollout end with the same `A` each; penalties reach back within their row.

    Args:
        batch: Rows with an advantage that is the same on all their trained tokens.
        discount: Per trained token.
        penalties: A stream per row, subtracted from its tokens' rewards; None for none.
        eps: Added to the variance.

    Raises:
        TrainingError: A penalty of a trained token is NaN or infinite.
    """
    if not batch.n_trained:
        return batch
    charged: Sequence[Stream | None] = [None] * len(batch) if penalties is None else penalties
    returns = [
        _returns(row, penalty, discount) for row, penalty in zip(batch, charged, strict=True)
    ]
    trained = np.concatenate([g[row.mask] for row, g in zip(batch, returns, strict=True)])
    mean = trained.mean()
    deviation = np.sqrt(trained.var(ddof=1) + eps) if len(trained) > 1 else 1.0
    rows = tuple(
        replace(row, adv=np.where(row.mask, (g - mean) / deviation, 0.0).astype(np.float32))
        for row, g in zip(batch, returns, strict=True)
    )
    return replace(batch, rows=rows)


def _returns(row: TrainRow, penalty: Stream | None, discount: float) -> NDArray[np.float64]:
    reward = np.zeros(len(row.ids))
    trained = np.flatnonzero(row.mask)
    if len(trained):
        reward[trained[-1]] = row.adv[trained[-1]]
    if penalty is not None:
        if not np.isfinite(penalty[trained]).all():
            raise TrainingError(f"row of rollout {row.rollout_id!r}: a penalty is not finite")
        reward[trained] -= penalty[trained]
    return discounted_returns(reward, row.mask, gamma=discount)
