"""The learner of REINFORCE++: rewards become returns of tokens before the ordinary step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.learning.token_returns import Stream, whitened_returns

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.reinforce_plus_plus import ReinforcePlusPlusConfig
    from agentlightning.learning.rows import RowBatch

__all__ = ["TokenReturnGradient", "reference_distances"]


class TokenReturnGradient:
    """Learns by whitened returns of tokens, with the distance to the initial model as a cost."""

    def __init__(self, config: ReinforcePlusPlusConfig, policy: Policy) -> None:
        """Learn for `policy` under `config`."""
        self._config = config
        self._policy = policy
        # The penalty is in the reward; in the loss it would count twice.
        self._loss = replace(loss_spec(config), kl_coef=0.0)

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        batch, metrics = batch_from_outcomes(
            outcomes,
            self._config,
            seed=f"{self._config.seed}/{step}",
            decode=self._policy.decode,
        )
        if not batch.n_trained:
            return metrics
        penalties = None
        if self._config.kl_coef:
            distances = await reference_distances(self._policy, batch)
            trained = np.concatenate([d[row.mask] for d, row in zip(distances, batch, strict=True)])
            metrics["training/kl_reference"] = float(trained.mean())
            penalties = [self._config.kl_coef * distance for distance in distances]
        batch = whitened_returns(batch, discount=self._config.discount, penalties=penalties)
        return metrics | await self._policy.train(batch, self._loss)


async def reference_distances(policy: Policy, batch: RowBatch) -> list[Stream]:
    """Return `log mu - log pi_ref` of each trained token (k1), a stream per row.

    A token whose probability nobody recorded has the trainer's own instead.
    """
    reference = await policy.logprobs(batch, reference=True)
    sampled = [row.logp_rollout for row in batch]
    if any(np.isnan(row.logp_rollout[row.mask]).any() for row in batch):
        own = await policy.logprobs(batch)
        sampled = [np.where(np.isnan(s), o, s) for s, o in zip(sampled, own, strict=True)]
    return [s - r for s, r in zip(sampled, reference, strict=True)]
