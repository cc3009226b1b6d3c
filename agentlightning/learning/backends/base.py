"""The protocol between an algorithm and whatever trains the model.

The algorithm decides advantages and weights; a backend multiplies, differentiates and updates.
All methods block: an asynchronous caller runs them in a thread. One call at a time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agentlightning.learning.losses import LossSpec
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.value_loss import ValueLossSpec

__all__ = ["BackendCapabilities", "TrainBackend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCapabilities:
    """What a backend can do."""

    losses: frozenset[str]
    lora: bool
    """Whether it trains adapters over a frozen base."""

    prefix_packing: bool
    """Whether rows with a common prefix share its computation."""

    reference: bool
    """Whether a KL penalty to the initial model is possible."""

    adapters: tuple[str, ...] = ("default",)
    """Names under which parts are trained apart; a whole model is one part, `default`."""

    critic: bool = False
    """Whether `values` and `step_critic` can be used."""

    dtype: str = "float32"
    """Number format that the model computes in."""


class TrainBackend(Protocol):
    """Carries out training steps on one model."""

    @property
    def capabilities(self) -> BackendCapabilities:
        """What this backend can do with this model."""
        ...

    def logprobs(self, batch: RowBatch, adapter: str = "default") -> list[NDArray[np.float32]]:
        """Score the trained tokens of every row under the current weights with one adapter.

        Returns:
            A stream per row, NaN where nothing is trained.
        """
        ...

    def reference_logprobs(self, batch: RowBatch) -> list[NDArray[np.float32]]:
        """Score the trained tokens of every row under the model as it was before training.

        Returns:
            As `logprobs` does.

        Raises:
            ConfigurationError: There is no such model any more: every weight is trained, and nothing
                loads the initial ones.
        """
        ...

    def step(
        self,
        batch: RowBatch,
        loss: LossSpec,
        adapter: str = "default",
        *,
        version: int | None = None,
    ) -> dict[str, float]:
        """Learn from a batch and return metrics, named `training/…`.

        Nothing but the named adapter changes.

        Args:
            batch: What to learn from.
            loss: What to minimise.
            adapter: What to train.
            version: Version of the weights before the step; with it the metrics tell staleness.

        Raises:
            ConfigurationError: There is no such adapter.
            EmptyBatchError: Nothing in the batch can be learned from.
            NonFiniteLossError: The loss or gradient is NaN or infinite; nothing was updated by it.
            ExplodingGradientError: The gradient is far too large; nothing was updated by it.
        """
        ...

    def values(self, batch: RowBatch) -> list[NDArray[np.float32]]:
        """Predict, before each trained token of every row, what is still to be earned.

        Returns:
            A stream per row, 0 where nothing is trained.

        Raises:
            ConfigurationError: There is no critic.
        """
        ...

    def step_critic(self, batch: RowBatch, loss: ValueLossSpec) -> dict[str, float]:
        """Move the values of trained tokens towards the rows' `returns`; return metrics.

        The policy does not change.

        Args:
            batch: Rows with `returns`, and with the `values` from before the step.
            loss: The loss, and how often.

        Raises:
            ConfigurationError: There is no critic.
            EmptyBatchError: Nothing in the batch can be learned from.
            NonFiniteLossError: The loss or gradient is NaN or infinite; nothing was updated by it.
        """
        ...

    def save(self, path: Path) -> None:
        """Write all that `restore` needs, critic included, into the directory `path`, which exists."""
        ...

    def restore(self, path: Path) -> None:
        """Go on exactly from what `save` wrote.

        Raises:
            CheckpointError: The files are missing, damaged or of another model.
        """
        ...

    def export(self, path: Path, *, merged: bool = False, adapter: str = "default") -> None:
        """Write the weights for use by others: an adapter in peft's format, or a whole model.

        Raises:
            ConfigurationError: There is no such adapter.
        """
        ...

    def close(self) -> None:
        """End what the backend started, processes for instance; idempotent."""
        ...
