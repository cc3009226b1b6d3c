"""The comparison of engine and trainer before a run's first update, on what the engine sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agentlightning.learning.agreement import check_agreement

if TYPE_CHECKING:
    from agentlightning.learning.backends.base import TrainBackend
    from agentlightning.learning.rows import RowBatch

__all__ = ["FirstCheck", "comparable"]

_TOKENS = 2048
"""Tokens that are enough to compare; the check costs one forward pass over them."""


def comparable(batch: RowBatch, version: int) -> RowBatch:
    """Return some rows whose trained tokens were all sampled by `version`, with probabilities."""
    rows = [
        row
        for row in batch.rows
        if row.mask.any()
        and (row.versions[row.mask] == version).all()
        and not np.isnan(row.logp_rollout[row.mask]).any()
    ]
    before = np.cumsum([0, *(len(row.ids) for row in rows)])[:-1]
    return replace(
        batch, rows=tuple(row for row, start in zip(rows, before, strict=True) if start < _TOKENS)
    )


class FirstCheck:
    """Compares once for each adapter; what was not sampled by the engine is left alone."""

    def __init__(self, *, exact: bool) -> None:
        """Compare strictly if `exact`: where the engine computes in the trainer's precision."""
        self._exact = exact
        self._checked: set[str] = set()

    def metrics(
        self, backend: TrainBackend, batch: RowBatch, version: int, adapter: str = "default"
    ) -> dict[str, float]:
        """Compare, if it has not happened yet; blocks.

        Args:
            backend: The trainer, before it learns from the batch.
            batch: What it is to learn from.
            version: Version of the trainer's weights.
            adapter: What is to be trained.

        Returns:
            How far they are apart, or nothing.

        Raises:
            TrainingError: Too far for rounding, see `check_agreement`.
        """
        rows = comparable(batch, version)
        if adapter in self._checked or not rows.rows:
            return {}
        self._checked.add(adapter)
        found = check_agreement(backend, rows, adapter=adapter, exact=self._exact)
        return found.metrics()
