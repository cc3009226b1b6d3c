"""Do the engine that samples and the backend that trains see the same model?

Both compute the log-probability of every sampled token; a difference beyond rounding means that
one of them has other weights, another template or other sampling settings, and that every ratio
would be wrong. Compares given rows; sampling them is the caller's.
"""

import logging
from dataclasses import dataclass

import numpy as np

from agentlightning.errors import EmptyBatchError, TrainingError
from agentlightning.learning.backends.base import TrainBackend
from agentlightning.learning.rows import RowBatch

__all__ = ["Agreement", "check_agreement"]

logger = logging.getLogger(__name__)

EXACT_LIMIT = 1e-2
"""Largest difference of one token's log-probability in fp32."""

ROUNDED_LIMIT = 0.1
"""Largest mean difference in half precision, whose logits of 20 are rounded to an eighth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far log-probabilities of engine and trainer are apart."""

    mean: float
    largest: float
    tokens: int
    dtype: str
    """Of the trained model."""
    exact: bool = True
    """Whether the engine computes in the same precision."""

    @property
    def within_limits(self) -> bool:
        """Whether rounding explains the difference."""
        if self.refuses:
            return self.largest <= EXACT_LIMIT
        return self.mean <= ROUNDED_LIMIT

    @property
    def refuses(self) -> bool:
        """Whether a difference beyond the limits is an error, and no mere rounding."""
        return self.exact and self.dtype == "float32"

    def metrics(self) -> dict[str, float]:
        """Return the figures under the names of metrics."""
        return {
            "training/agreement_mean": self.mean,
            "training/agreement_max": self.largest,
        }


def check_agreement(
    backend: TrainBackend, batch: RowBatch, *, adapter: str = "default", exact: bool = True
) -> Agreement:
    """Score what the engine sampled under the weights that sampled it, and compare.

    Call it before the first step, with rows of the engine's present version.

    Args:
        backend: The trainer.
        batch: Rows with the engine's log-probabilities; tokens without one do not count.
        adapter: What sampled them.
        exact: Whether the engine computes in the trainer's precision; False where it is another
            program, whose precision is its own.

    Raises:
        EmptyBatchError: No trained token has a log-probability of the engine.
        TrainingError: In fp32 a token differs by more than 0.01. In half precision a mean
            difference above 0.1 is only logged as a warning: the ratio corrects for it.
    """
    scored = backend.logprobs(batch, adapter=adapter)
    parts = [
        np.abs(row.logp_rollout - stream)[row.mask]
        for row, stream in zip(batch.rows, scored, strict=True)
    ]
    apart = np.concatenate(parts) if parts else np.zeros(0)
    apart = apart[~np.isnan(apart)]
    if not len(apart):
        raise EmptyBatchError(
            "cannot compare engine and trainer: no trained token came with a log-probability"
        )
    found = Agreement(
        mean=float(apart.mean()),
        largest=float(apart.max()),
        tokens=len(apart),
        dtype=backend.capabilities.dtype,
        exact=exact,
    )
    if not found.within_limits:
        _object(found)
    return found


def _object(found: Agreement) -> None:
    if found.refuses:
        raise TrainingError(
            f"engine and trainer disagree: log-probabilities of the same {found.tokens} tokens "
            f"differ by {found.mean:.3g} on average and {found.largest:.3g} at most. Check that both "
            "have the same weights, temperature 1 and neither top_p nor top_k"
        )
    logger.warning(
        "engine and trainer disagree",
        extra={"mean": found.mean, "largest": found.largest, "dtype": found.dtype},
    )
