"""Reading ended attempts out of a store, page by page, for export."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from agentlightning.adapter.export.options import ExportOptions
from agentlightning.adapter.export.sample import Sample, samples_of
from agentlightning.types.rollout import Attempt, AttemptedRollout, Rollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["read_samples"]

_PAGE = 100
_AT_ONCE = 8
"""Attempts whose spans are asked for at the same time."""

_ENDED = frozenset({"succeeded", "failed", "cancelled"})


async def read_samples(
    store: LightningStore, options: ExportOptions, skipped: Counter[str]
) -> AsyncGenerator[list[Sample]]:
    """Yield the samples of each rollout that the options take, in order of the rollouts' starts.

    Only the latest attempt counts, and only once it has ended: from then on nothing of it
    changes. Rollouts that are left out are counted by why.
    """
    offset = 0
    while True:
        page = await store.query_rollouts(
            metadata=dict(options.metadata) or None,
            sort_by="start_time",
            limit=_PAGE,
            offset=offset,
        )
        chosen = [rollout for rollout in page if _is_wanted(rollout, options, skipped)]
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE]
            read = (_read(store, rollout, options, skipped) for rollout in some)
            for samples in await asyncio.gather(*read):
                if samples:
                    yield samples
        if len(page) < _PAGE:
            return
        offset += _PAGE


def _is_wanted(rollout: Rollout, options: ExportOptions, skipped: Counter[str]) -> bool:
    if rollout.status not in _ENDED:
        skipped["rollouts under way"] += 1
    elif rollout.status not in options.statuses:
        skipped[f"rollouts with status {rollout.status}"] += 1
    elif options.modes is not None and rollout.mode not in options.modes:
        skipped["rollouts of another mode"] += 1
    else:
        return True
    return False


async def _read(
    store: LightningStore, rollout: Rollout, options: ExportOptions, skipped: Counter[str]
) -> list[Sample]:
    attempt: Attempt | None = rollout.attempt if isinstance(rollout, AttemptedRollout) else None
    if attempt is None:
        attempt = await store.get_latest_attempt(rollout.rollout_id)
    if attempt is None or attempt.end_time is None:
        skipped["rollouts whose attempt is open"] += 1
        return []
    spans = await store.query_spans(rollout.rollout_id, attempt.attempt_id)
    samples = samples_of(rollout, attempt, spans, per_call=options.per_call)
    if not samples:
        skipped["rollouts without an answered model call"] += 1
    return samples
