"""Reading rollouts and attempts, and waiting for rollouts to end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from agentlightning._internal.clock import monotonic
from agentlightning.store.base import FilterLogic, LightningStoreStatistics, SortOrder, is_finished
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.lifecycle import is_waiting
from agentlightning.store.record import replace, view
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    PaginatedResult,
    Rollout,
    RolloutMode,
    RolloutStatus,
    SortOptions,
)

M = TypeVar("M", bound=BaseModel)

_FRONT: Final = 20
"""Ids from the head of the queue among which one that waits is looked for."""


def order(sort_by: str | None, sort_order: SortOrder) -> SortOptions | None:
    """Return the ordering that a public method's two arguments stand for."""
    return {"name": sort_by, "order": sort_order} if sort_by else None


def with_items(page: PaginatedResult[Any], items: Sequence[M]) -> PaginatedResult[M]:
    """Return the same page with other items."""
    return PaginatedResult[Any].model_construct(
        items=items, limit=page.limit, offset=page.offset, total=page.total
    )


async def _oldest_waiting(tx: Transaction) -> Rollout | None:
    """Return the first rollout in line, passing over ids that claims would pass over."""
    front = await tx.rows.rollout_queue.peek(_FRONT)
    await tx.load(front, attempts=False)
    for rollout_id in front:
        rollout = await tx.find_rollout(rollout_id)
        if rollout is not None and is_waiting(rollout):
            return rollout
    return None


class QueryMethods(StoreFrame):
    """`query_rollouts`, `query_attempts`, `get_*`, `wait_for_*` and `statistics`."""

    _removed_spans = 0
    """Spans that retention removed since the store was opened."""

    @tracked
    async def statistics(self) -> LightningStoreStatistics:
        async def step(tx: Transaction) -> LightningStoreStatistics:
            rows = tx.rows
            by_status = await rows.count_by_status()
            counts: LightningStoreStatistics = {
                "name": type(self).__name__,
                "total_rollouts": sum(by_status.values()),
                "total_attempts": await rows.attempts.size(),
                "total_spans": await rows.spans.size(),
                "total_resources": await rows.resources.size(),
                "total_workers": await rows.workers.size(),
                "uptime": monotonic() - self._opened,
                "rollouts_by_status": {key: n for key, n in by_status.items() if n},
                "queue_length": await rows.rollout_queue.size(),
                "removed_spans": self._removed_spans,
            }
            oldest = await _oldest_waiting(tx)
            if oldest is not None:
                counts["oldest_queued_seconds"] = max(0.0, tx.now - oldest.start_time)
            size = await rows.find_storage_bytes()
            if size is not None:
                counts["storage_bytes"] = size
            return counts

        return await self._read(step)

    @tracked
    @healthcheck_before
    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Rollout | AttemptedRollout]:
        if status is not None or rollout_ids is not None:
            # The decorators' frame stands between the caller and this line.
            warnings.warn(
                "query_rollouts(status=, rollout_ids=) is deprecated; "
                "use status_in= and rollout_id_in=.",
                DeprecationWarning,
                stacklevel=3,
            )
        status_in = status if status_in is None else status_in
        rollout_id_in = rollout_ids if rollout_id_in is None else rollout_id_in
        wanted = {
            "status": {"within": status_in},
            "rollout_id": {"within": rollout_id_in, "contains": rollout_id_contains},
            "mode": {"within": mode_in},
            "metadata": {"has": metadata or None},
            "_aggregate": filter_logic,
        }

        async def step(tx: Transaction) -> PaginatedResult[Rollout | AttemptedRollout]:
            found = await tx.rows.rollouts.query(
                wanted, order(sort_by, sort_order), limit=limit, offset=offset
            )
            latest = await tx.rows.find_latest_attempts([rollout.rollout_id for rollout in found])
            return with_items(
                found, [view(rollout, latest.get(rollout.rollout_id)) for rollout in found]
            )

        return await self._read(step, ("rollouts", "attempts"))

    @tracked
    @healthcheck_before
    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Attempt]:
        async def step(tx: Transaction) -> PaginatedResult[Attempt]:
            found = await tx.rows.attempts.query(
                {"rollout_id": {"exact": rollout_id}},
                order(sort_by, sort_order),
                limit=limit,
                offset=offset,
            )
            return with_items(found, [replace(attempt) for attempt in found])

        return await self._read(step, ("attempts",))

    @tracked
    @healthcheck_before
    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | AttemptedRollout | None:
        async def step(tx: Transaction) -> Rollout | AttemptedRollout | None:
            rollout, attempt = await tx.rollout_with_latest(rollout_id)
            return None if rollout is None else view(rollout, attempt)

        return await self._read(step, ("rollouts", "attempts"))

    @tracked
    @healthcheck_before
    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        async def step(tx: Transaction) -> Attempt | None:
            attempt = await tx.latest_attempt(rollout_id)
            return None if attempt is None else replace(attempt)

        return await self._read(step, ("attempts",))

    @tracked
    @healthcheck_before
    async def wait_for_rollouts(
        self, *, rollout_ids: list[str], timeout: float | None = None
    ) -> list[Rollout]:
        return await self._wait(list(dict.fromkeys(rollout_ids)), timeout)

    @tracked
    @healthcheck_before
    async def wait_for_rollout(
        self, rollout_id: str, timeout: float | None = None
    ) -> Rollout | None:
        """Wait for one rollout to end; None when it did not in time, or is unknown."""
        finished = await self._wait([rollout_id], timeout)
        return finished[0] if finished else None

    async def _wait(self, rollout_ids: list[str], timeout: float | None) -> list[Rollout]:
        if timeout is None or timeout > 0:
            self._watch()
        end = None if timeout is None else monotonic() + timeout
        completions = self._changes.completions
        while True:
            watched = completions.watch(rollout_ids)
            try:
                known = await self._rollouts(rollout_ids)
                finished = {key: row for key, row in known.items() if is_finished(row)}
                left = None if end is None else end - monotonic()
                if len(finished) == len(known) or (left is not None and left <= 0):
                    return [finished[key] for key in rollout_ids if key in finished]
                done = [key for key in rollout_ids if key not in known or key in finished]
                completions.settle(watched, done)
                await self._pause(watched.waiter, left)
            finally:
                completions.leave(watched, rollout_ids)

    async def _rollouts(self, rollout_ids: Sequence[str]) -> dict[str, Rollout | AttemptedRollout]:
        async def step(tx: Transaction) -> dict[str, Rollout | AttemptedRollout]:
            found = list((await tx.rows.find_rollouts(rollout_ids)).values())
            ended = [rollout.rollout_id for rollout in found if is_finished(rollout)]
            latest = await tx.rows.find_latest_attempts(ended)
            return {row.rollout_id: view(row, latest.get(row.rollout_id)) for row in found}

        return await self._read(step, ("rollouts", "attempts"))
