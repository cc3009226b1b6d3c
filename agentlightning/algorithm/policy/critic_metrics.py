"""The metrics of a critic, under the names that 0.3.0 charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from agentlightning.learning.rows import RowBatch

__all__ = ["critic_metrics"]


def critic_metrics(batch: RowBatch) -> dict[str, float]:
    """Return mean, largest and smallest advantage, return and value of the trained tokens.

    `critic/vf_explained_var` is the share of the returns' variance that the values explain: 1 for
    a critic that knows everything, 0 for a constant one, negative for one that misleads.

    Args:
        batch: Rows with advantages, returns and values; at least one trained token.
    """
    streams = {name: _trained(batch, name) for name in ("adv", "returns", "values")}
    metrics: dict[str, float] = {}
    for name, stream in (("advantages", "adv"), ("returns", "returns"), ("values", "values")):
        found = streams[stream]
        metrics[f"critic/{name}/mean"] = float(found.mean())
        metrics[f"critic/{name}/max"] = float(found.max())
        metrics[f"critic/{name}/min"] = float(found.min())
    unexplained = (streams["returns"] - streams["values"]).var()
    spread = streams["returns"].var()
    # Why: as 0.3.0 does, so that returns without any spread give no infinity.
    metrics["critic/vf_explained_var"] = float(1 - unexplained / (spread + 1e-5))
    return metrics


def _trained(batch: RowBatch, stream: str) -> NDArray[np.float64]:
    parts = [getattr(row, stream)[row.mask] for row in batch]
    return np.concatenate(parts).astype(np.float64)
