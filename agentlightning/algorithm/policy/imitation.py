"""The learner of SFT: choose answers by their rewards, and make them more likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.algorithm.policy.answer_batch import LEFT_OUT, AnswerRows, read_rows
from agentlightning.learning.losses import LossSpec

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.sft import SFTConfig
    from agentlightning.learning.rows import RowBatch

__all__ = ["Imitation", "kept_answers"]


class Imitation:
    """Learns the answers that are worth it, each token alike or by reward."""

    def __init__(self, config: SFTConfig, policy: Policy) -> None:
        """Learn for `policy` under `config`."""
        self._config = config
        self._policy = policy
        self._loss = LossSpec(
            name="linear", epochs=config.update_epochs, mini_batches=config.mini_batches
        )

    async def learn(self, outcomes: Sequence[RolloutOutcome], *, step: int) -> dict[str, float]:
        batch, metrics = self._batch(outcomes)
        metrics["training/kept_share"] = len({row.rollout_id for row in batch}) / len(outcomes)
        if batch.n_trained:
            metrics |= await self._policy.train(batch, self._loss)
        return metrics

    async def measure(self, outcomes: Sequence[RolloutOutcome]) -> dict[str, float]:
        answers = self._read(outcomes)
        batch, _ = self._lay_out(answers, [1.0] * len(outcomes))
        scores = await self._policy.logprobs(batch)
        losses = [(row.weight * -logp)[row.mask] for row, logp in zip(batch, scores, strict=True)]
        return {"val/loss": float(np.concatenate(losses).sum(dtype=np.float64))}

    def _read(self, outcomes: Sequence[RolloutOutcome]) -> AnswerRows:
        return read_rows(outcomes, roles=self._config.trained_roles, decode=self._policy.decode)

    def _lay_out(
        self, answers: AnswerRows, advantages: Sequence[float]
    ) -> tuple[RowBatch, dict[str, float]]:
        return answers.batch(
            advantages,
            aggregate=self._config.aggregate,
            temperature=self._config.answer_temperature,
        )

    def _batch(self, outcomes: Sequence[RolloutOutcome]) -> tuple[RowBatch, dict[str, float]]:
        config = self._config
        answers = self._read(outcomes)
        rewards = answers.rewards
        kept = kept_answers(
            rewards,
            answers.groups,
            min_reward=config.min_reward,
            best_of_group=config.best_of_group,
        )
        advantages = [
            LEFT_OUT if not keep else reward if config.weight_by_reward else 1.0
            for keep, reward in zip(kept, rewards, strict=True)
        ]
        if config.weight_by_reward:
            advantages = [each if each > 0 else LEFT_OUT for each in advantages]
        return self._lay_out(answers, advantages)


def kept_answers(
    rewards: Sequence[float],
    groups: Sequence[object],
    *,
    min_reward: float | None = None,
    best_of_group: int | None = None,
) -> list[bool]:
    """Return which answers are imitated.

    Args:
        rewards: One for each answer; NaN for none, which is never kept.
        groups: The group of each answer.
        min_reward: Least reward of those that are kept; None for any.
        best_of_group: How many of each group are kept, the best (the first of equals) of those
            with `min_reward`; None for all.

    Example:
        >>> kept_answers([1.0, 0.0, 0.5], ["a", "a", "b"], best_of_group=1)
        [True, False, True]
    """
    least = -math.inf if min_reward is None else min_reward
    kept = [not math.isnan(reward) and reward >= least for reward in rewards]
    if best_of_group is None:
        return kept
    taken: dict[object, int] = {}
    for place in sorted((p for p, keep in enumerate(kept) if keep), key=lambda p: -rewards[p]):
        taken[groups[place]] = taken.get(groups[place], 0) + 1
        kept[place] = taken[groups[place]] <= best_of_group
    return kept
