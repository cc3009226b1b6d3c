"""From rewards and values of tokens to what actor and critic learn by: advantages and returns."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agentlightning.errors import TrainingError
from agentlightning.learning.gae import gae
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.token_returns import Stream, with_whitened_advantages
from agentlightning.learning.token_rewards import Rewards

__all__ = ["with_estimates"]


def with_estimates(
    batch: RowBatch,
    rewards: Sequence[Rewards],
    values: Sequence[Stream],
    *,
    discount: float = 1.0,
    gae_lambda: float = 1.0,
    whitened: bool = True,
) -> RowBatch:
    """Give each row advantages, returns and values.

    Each row is an episode: nothing is carried from one to another, and after its last trained
    token nothing is expected any more. Returns are made of advantages before they are whitened.

    Args:
        batch: The rows; their advantages are replaced.
        rewards: A stream per row.
        values: A stream per row, of the critic before the step.
        discount: `gamma`, per trained token.
        gae_lambda: `lambda`.
        whitened: Whether advantages are whitened over all trained tokens of the batch.

    Raises:
        TrainingError: A reward or value of a trained token is NaN or infinite.
    """
    estimates = [
        gae(reward, value.astype(np.float64), row.mask, gamma=discount, lam=gae_lambda)
        for row, reward, value in zip(batch, rewards, values, strict=True)
    ]
    for row, (advantage, _) in zip(batch, estimates, strict=True):
        if not np.isfinite(advantage).all():
            raise TrainingError(
                f"row of rollout {row.rollout_id!r}: a reward or a value is not finite"
            )
    rows = tuple(
        replace(
            row,
            adv=advantage.astype(np.float32),
            returns=returns.astype(np.float32),
            values=value,
        )
        for row, (advantage, returns), value in zip(batch, estimates, values, strict=True)
    )
    batch = replace(batch, rows=rows)
    if whitened and batch.n_trained:
        batch = with_whitened_advantages(batch, [advantage for advantage, _ in estimates])
    return batch
