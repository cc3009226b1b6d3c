"""The protocol between the loop and what an algorithm makes of a step's rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome

__all__ = ["Learner", "MeasuringLearner"]


class Learner(Protocol):
    """Learns from whole groups of ended rollouts, one step at a time."""

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        """Change the policy, if the outcomes hold a signal, and return the step's metrics.

        Args:
            outcomes: All rollouts of the step, failed ones included, groups together.
            step: Number of the step, from 0.

        Returns:
            Metrics by full name; `training/reward`, `training/n_rollouts` and
            `training/n_sampled_tokens` among them.

        Raises:
            NonFiniteLossError: Loss or gradient is NaN or infinite; the last update did not happen.
        """
        ...


@runtime_checkable
class MeasuringLearner(Learner, Protocol):
    """Learns from answers that are given, and can measure others without learning from them."""

    async def measure(self, outcomes: Sequence[RolloutOutcome]) -> dict[str, float]:
        """Return how well the policy does on held-out answers.

        Args:
            outcomes: All that are held out, groups together.

        Returns:
            Metrics by full name, `val/loss` among them.
        """
        ...
