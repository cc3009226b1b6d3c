"""Steps whose answers are given as records: read and rendered where others sample rollouts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.answer_ids import AnswerWriter
from agentlightning.algorithm.policy.curriculum import step_task_indices
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.algorithm.policy.step_sampler import Progress, StepSample
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentlightning.algorithm.policy.policy import Policy
    from agentlightning.algorithm.policy.run_config import RunConfig
    from agentlightning.learning.demonstrations import ReadRecord
    from agentlightning.types import Dataset

__all__ = ["RecordSource"]


class RecordSource:
    """Makes outcomes of records, a group of each; the policy must be loaded by then."""

    def __init__(
        self, config: RunConfig, policy: Policy, read: ReadRecord, *, has_agent: bool = False
    ) -> None:
        """Render for `policy`.

        Args:
            config: Decides what a step holds and how prompts with earlier answers are made.
            policy: The model whose tokens are wanted.
            read: From a record to the answers in it.
            has_agent: Whether the fit has an agent, for held-out tasks.
        """
        self.has_agent = has_agent
        self._config = config
        self._policy = policy
        self._read = read
        self._writer: AnswerWriter | None = None

    async def sample(self, dataset: Dataset[Any], step: int, on_done: Progress) -> StepSample:
        """Return the outcomes of one step.

        Args:
            dataset: The records.
            step: Number of the step, from 0.
            on_done: Called with (read, all).

        Raises:
            ConfigurationError: A record cannot be read or rendered; the message says which.
        """
        began = monotonic()
        indices = step_task_indices(
            seed=self._config.seed,
            step=step,
            batch=self._config.batch_groups,
            tasks=len(dataset),
        )
        outcomes = await self.outcomes(dataset, indices, stem=f"t{step}")
        on_done(len(indices), len(indices))
        return StepSample(outcomes=outcomes, seconds=monotonic() - began)

    async def outcomes(
        self, dataset: Dataset[Any], indices: Sequence[int], *, stem: str
    ) -> list[RolloutOutcome]:
        """Return an outcome for each answer in some records.

        Args:
            dataset: The records.
            indices: Which of them.
            stem: Beginning of the outcomes' ids.

        Raises:
            ConfigurationError: A record cannot be read or rendered; the message says which.
        """
        return await asyncio.to_thread(self._outcomes, dataset, indices, stem)

    def _outcomes(
        self, dataset: Dataset[Any], indices: Sequence[int], stem: str
    ) -> list[RolloutOutcome]:
        found: list[RolloutOutcome] = []
        for slot, index in enumerate(indices):
            try:
                found += self._group(dataset[index], f"{stem}-{slot}")
            except ConfigurationError as error:
                raise ConfigurationError(f"Record {index} of the data set: {error}") from error
        return found

    def _group(self, record: Any, name: str) -> list[RolloutOutcome]:
        if self._writer is None:
            tokens = self._policy.inference.tokens
            self._writer = AnswerWriter(
                tokens.tokenizer, tokens.eos_ids, remembers=self._config.history == "exact"
            )
        return [
            RolloutOutcome(
                rollout_id=f"{name}-{member}",
                group_id=name,
                task=str(each.messages[max(0, each.answers[0] - 1)].get("content") or ""),
                reward=each.reward,
                outcome="ok",
                error=None,
                calls=self._writer.calls(each, f"{name}-{member}"),
                span_count=0,
            )
            for member, each in enumerate(self._read(record))
        ]
