"""From outcomes to a batch whose advantages are given, not estimated: of imitation and preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.adapter.token_row import TokenRow, TreeReport
from agentlightning.adapter.token_tree import Decode, TreeOptions, build_token_rows
from agentlightning.algorithm.policy.batch_metrics import data_metrics
from agentlightning.learning.batch import BatchSpec, build_batch
from agentlightning.learning.credit import ScoredRollout

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.outcome import RolloutOutcome
    from agentlightning.learning.rows import RowBatch
    from agentlightning.learning.weights import Aggregate

__all__ = ["LEFT_OUT", "AnswerRows", "read_rows"]

LEFT_OUT = float("nan")
"""Advantage of an outcome that is not trained."""


@dataclass(frozen=True, slots=True)
class AnswerRows:
    """Outcomes and the rows of tokens that each brought."""

    outcomes: tuple[RolloutOutcome, ...]
    rows: tuple[Sequence[TokenRow], ...]
    report: TreeReport

    @property
    def rewards(self) -> list[float]:
        """Return the reward of each outcome; NaN where it has none, or nothing to train."""
        return [
            LEFT_OUT if each.reward is None or not rows else each.reward
            for each, rows in zip(self.outcomes, self.rows, strict=True)
        ]

    @property
    def groups(self) -> list[str]:
        """Return the group of each outcome."""
        return [each.group_id for each in self.outcomes]

    def batch(
        self, advantages: Sequence[float], *, aggregate: Aggregate, temperature: float
    ) -> tuple[RowBatch, dict[str, float]]:
        """Lay out the outcomes that have an advantage.

        Args:
            advantages: One for each outcome, of all its trained tokens; `LEFT_OUT` for none.
            aggregate: How the tokens share the loss.
            temperature: At which log-probabilities are taken.

        Returns:
            The batch, possibly empty, and the metrics of the data.
        """
        rollouts = [
            ScoredRollout(
                rollout_id=each.rollout_id, group_id=each.group_id, rows=rows, reward=advantage
            )
            for each, rows, advantage in zip(self.outcomes, self.rows, advantages, strict=True)
        ]
        spec = BatchSpec(advantage="reward", aggregate=aggregate, zero_signal="keep")
        batch, report = build_batch(rollouts, spec, temperature=temperature)
        # The estimators take equal rewards for no signal, which what is given is not.
        given = {each.rollout_id: each.reward for each in rollouts}
        batch = replace(
            batch,
            rows=tuple(
                replace(row, adv=row.mask * np.float32(given[row.rollout_id])) for row in batch
            ),
        )
        metrics = data_metrics(self.outcomes, rollouts, self.report, batch, report)
        # Rewards need not differ here; a group teaches nothing when none of it is trained.
        unused = report.groups - len({row.group_id for row in batch})
        return batch, metrics | {"training/n_zero_adv_groups": float(unused)}


def read_rows(
    outcomes: Sequence[RolloutOutcome], *, roles: str | None, decode: Decode | None = None
) -> AnswerRows:
    """Build the rows of each outcome.

    Args:
        outcomes: All outcomes of a step, failed ones included.
        roles: Regular expression that trained roles match; None for all.
        decode: Ids to text; tells apart why histories forked.
    """
    built = [
        build_token_rows(each.calls, TreeOptions(roles=roles), decode=decode) for each in outcomes
    ]
    return AnswerRows(
        tuple(outcomes),
        tuple([row for row in rows if row.mask.any()] for rows, _ in built),
        TreeReport.total(report for _, report in built),
    )
