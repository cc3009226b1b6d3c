"""The loss of a critic: squared error that does not reward leaving the old prediction far behind."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agentlightning.errors import ConfigurationError

__all__ = ["ValueLossSpec", "value_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLossSpec:
    """How a critic learns from one batch."""

    clip: float | None = 0.5
    """How far a value may move from what it was before the step and still lower its loss; None
    for any distance."""

    epochs: int = 1
    """Passes over the rows."""

    mini_batches: int = 1
    """Updates per pass, each on a part of the groups."""

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ConfigurationError(f"value clip {self.clip!r} must be positive, or None")
        if self.epochs < 1 or self.mini_batches < 1:
            raise ConfigurationError("a critic needs at least one epoch and one mini-batch")


def value_loss(
    value_K: Tensor, old_K: Tensor, return_K: Tensor, *, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Compute `0.5 max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2)` for each token.

    The clipped form is that of PPO's published implementation (arXiv:1707.06347, arXiv:2005.12729).

    Args:
        value_K: Values under the critic as it is now.
        old_K: Values before the step.
        return_K: What they should be.
        clip: The distance `c`; None for the plain squared error.

    Returns:
        The loss, and where the clipped value is the one that counts.
    """
    plain_K = (value_K - return_K).square()
    if clip is None:
        return 0.5 * plain_K, torch.zeros_like(plain_K, dtype=torch.bool)
    bounded_K = (value_K.clamp(old_K - clip, old_K + clip) - return_K).square()
    return 0.5 * torch.maximum(plain_K, bounded_K), bounded_K > plain_K
