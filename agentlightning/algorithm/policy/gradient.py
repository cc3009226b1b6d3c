"""The policy-gradient learner: advantages of groups, one loss, a step of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.config import PolicyConfig
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy

__all__ = ["PolicyGradient"]


class PolicyGradient:
    """Learns by the configured advantage estimator and loss, without a critic."""

    def __init__(self, config: PolicyConfig, policy: Policy) -> None:
        """Learn for `policy` under `config`."""
        self._config = config
        self._policy = policy

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        batch, metrics = batch_from_outcomes(
            outcomes,
            self._config,
            seed=f"{self._config.seed}/{step}",
            decode=self._policy.decode,
        )
        if batch.n_trained:
            metrics |= await self._policy.train(batch, loss_spec(self._config))
        return metrics
