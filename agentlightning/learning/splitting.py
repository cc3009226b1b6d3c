"""Splitting rollouts between the adapters of one model, by the roles of their calls.

Every adapter learns from its own calls as if it had a run of its own: what others sampled is context,
and rollouts in which none of its calls was made are no part of its baseline. Pure functions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from agentlightning.adapter.token_row import RowSpan, TokenRow
from agentlightning.learning.credit import ScoredRollout

__all__ = ["adapter_of", "split_by_adapter"]


def adapter_of(role: str, adapters: Mapping[str, str]) -> str | None:
    """Return the first adapter whose regular expression is found in `role`, or None.

    Example:
        >>> adapter_of("senior-coder", {"plan": "^planner$", "code": "coder"})
        'code'
    """
    return next((name for name, roles in adapters.items() if re.search(roles, role)), None)


def split_by_adapter(
    rollouts: Sequence[ScoredRollout], adapters: Mapping[str, str]
) -> dict[str, list[ScoredRollout]]:
    """Return, for each adapter, all rollouts with only its calls to train.

    A rollout without a trained call of the adapter is there as one that was not scored.

    Args:
        rollouts: Whole groups.
        adapters: Adapter name to a regular expression of roles.
    """
    return {name: [_part(rollout, name, adapters) for rollout in rollouts] for name in adapters}


def _part(rollout: ScoredRollout, name: str, adapters: Mapping[str, str]) -> ScoredRollout:
    rows = [part for row in rollout.rows if (part := _part_of_row(row, name, adapters)) is not None]
    return replace(rollout, rows=rows, reward=rollout.reward if rows else float("nan"))


def _part_of_row(row: TokenRow, name: str, adapters: Mapping[str, str]) -> TokenRow | None:
    spans: list[RowSpan] = []
    mask = np.zeros_like(row.mask)
    for span in row.spans:
        own = span.trained and adapter_of(span.role, adapters) == name
        spans.append(replace(span, trained=own))
        mask[span.start : span.stop] = own
    if not mask.any():
        return None
    return replace(row, mask=mask, spans=tuple(spans))
