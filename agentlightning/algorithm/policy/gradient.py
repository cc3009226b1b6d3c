"""The policy-gradient learner: advantages of groups, one loss, a step of the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentlightning.algorithm.policy.batch import (
    batch_from_outcomes,
    batches_by_adapter,
    loss_spec,
)

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
        config, seed = self._config, f"{self._config.seed}/{step}"
        if config.adapters:
            return await self._learn_by_adapter(outcomes, config.adapters, seed)
        batch, metrics = batch_from_outcomes(
            outcomes, config, seed=seed, decode=self._policy.decode
        )
        if batch.n_trained:
            metrics |= await self._policy.train(batch, loss_spec(config))
        return metrics

    async def _learn_by_adapter(
        self, outcomes: Sequence[RolloutOutcome], adapters: Mapping[str, str], seed: str
    ) -> dict[str, float]:
        batches, metrics = batches_by_adapter(
            outcomes, self._config, adapters, seed=seed, decode=self._policy.decode
        )
        if any(batch.n_trained for batch in batches.values()):
            metrics |= await self._policy.train_adapters(batches, loss_spec(self._config))
        return metrics
