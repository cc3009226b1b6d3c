"""The learner of PPO: values, advantages of tokens, then a step of the critic and of the policy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.algorithm.policy.batch import batch_spec, loss_spec, shuffle_stretches
from agentlightning.algorithm.policy.batch_metrics import data_metrics
from agentlightning.algorithm.policy.critic_metrics import critic_metrics
from agentlightning.algorithm.policy.scoring import score_rollouts
from agentlightning.algorithm.policy.token_gradient import reference_distances
from agentlightning.learning.actor_critic import with_estimates
from agentlightning.learning.batch import build_batch
from agentlightning.learning.credit import CreditSpec
from agentlightning.learning.token_rewards import token_rewards
from agentlightning.learning.value_loss import ValueLossSpec

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.ppo import PPOConfig
    from agentlightning.learning.rows import RowBatch
    from agentlightning.learning.token_rewards import Rewards

__all__ = ["ActorCritic"]

_TOLERANCE = 1e-6
"""Rewards that differ by less are equal."""


class ActorCritic:
    """Learns by the difference between what tokens brought and what the critic expected."""

    def __init__(self, config: PPOConfig, policy: Policy) -> None:
        """Learn for `policy` under `config`."""
        self._config = config
        self._policy = policy
        self._loss = loss_spec(config)
        self._value_loss = ValueLossSpec(
            clip=config.value_clip, epochs=config.critic_epochs, mini_batches=config.mini_batches
        )

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        batch, rewards, metrics = self._batch(outcomes)
        if not batch.n_trained:
            return metrics
        if self._config.kl_reward_coef:
            rewards, distance = await self._charged(batch, rewards)
            metrics["training/kl_reference"] = distance
        values = await self._policy.values(batch)
        batch = with_estimates(
            batch,
            rewards,
            values,
            discount=self._config.discount,
            gae_lambda=self._config.gae_lambda,
            whitened=self._config.whiten,
        )
        metrics |= critic_metrics(batch)
        metrics |= await self._policy.train_critic(batch, self._value_loss)
        if step < self._config.critic_warmup_steps:
            return metrics
        if self._config.shuffle_advantages:
            batch = shuffle_stretches(batch, random.Random(f"{self._config.seed}/{step}"))
        return metrics | await self._policy.train(batch, self._loss)

    def _batch(
        self, outcomes: Sequence[RolloutOutcome]
    ) -> tuple[RowBatch, list[Rewards], dict[str, float]]:
        """Build rows, and a stream of rewards for each."""
        config = self._config
        rollouts, tree = score_rollouts(outcomes, config, decode=self._policy.decode)
        # Rewards of calls are put on tokens here, so rows and their shares are those of rollouts.
        spec = replace(batch_spec(config), credit=CreditSpec())
        batch, report = build_batch(rollouts, spec, temperature=config.temperature)
        rewards = [
            stream
            for rollout in rollouts
            if not np.isnan(rollout.reward)
            for stream in token_rewards(rollout)
        ]
        metrics = data_metrics(outcomes, rollouts, tree, batch, report)
        # Groups are not compared: all of them teach, unless all rollouts did equally well.
        totals = [float(stream.sum()) for stream in rewards]
        flat = not totals or max(totals) - min(totals) < _TOLERANCE
        metrics["training/n_zero_adv_groups"] = metrics["training/n_groups"] if flat else 0.0
        return batch, rewards, metrics

    async def _charged(
        self, batch: RowBatch, rewards: Sequence[Rewards]
    ) -> tuple[list[Rewards], float]:
        """Let each token pay for its distance to the reference; return the mean distance too."""
        distances = await reference_distances(self._policy, batch)
        trained = np.concatenate([d[row.mask] for d, row in zip(distances, batch, strict=True)])
        charged = [
            reward - np.where(row.mask, self._config.kl_reward_coef * distance, 0.0)
            for reward, distance, row in zip(rewards, distances, batch, strict=True)
        ]
        return charged, float(trained.mean())
