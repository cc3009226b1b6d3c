"""Advantages of single tokens without a critic: discounted returns, whitened over the batch.

What REINFORCE++ learns by (arXiv:2501.03262). Numpy only, on rows that carry their rollout's
advantage already.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agentlightning.errors import TrainingError
from agentlightning.learning.gae import discounted_returns, whiten
from agentlightning.learning.rows import RowBatch, TrainRow

__all__ = ["Stream", "whitened_returns", "with_whitened_advantages"]

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
    return with_whitened_advantages(batch, returns, eps=eps)


def with_whitened_advantages(
    batch: RowBatch, values: Sequence[NDArray[np.float64]], *, eps: float = 1e-8
) -> RowBatch:
    """Make `values`, a stream per row, the advantages, whitened over all trained tokens."""
    trained = [value[row.mask] for row, value in zip(batch, values, strict=True)]
    ends = np.cumsum([len(own) for own in trained])[:-1]
    white = np.split(whiten(np.concatenate(trained), eps=eps), ends)
    return replace(
        batch, rows=tuple(_credited(row, own) for row, own in zip(batch, white, strict=True))
    )


def _credited(row: TrainRow, own: NDArray[np.float64]) -> TrainRow:
    advantage = np.zeros(len(row.ids), dtype=np.float32)
    advantage[row.mask] = own
    return replace(row, adv=advantage)


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
