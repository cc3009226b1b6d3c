"""Workers as they report themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.store.base import UNSET, FilterLogic, SortOrder, Unset
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.queries import order, with_items
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.record import replace
from agentlightning.types import PaginatedResult, Worker, WorkerStatus


class WorkerMethods(StoreFrame):
    """`query_workers`, `get_worker_by_id` and `update_worker`."""

    @tracked
    @healthcheck_before
    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Worker]:
        wanted = {
            "status": {"within": status_in},
            "worker_id": {"contains": worker_id_contains},
            "_aggregate": filter_logic,
        }

        async def step(tx: Transaction) -> PaginatedResult[Worker]:
            found = await tx.rows.workers.query(
                wanted, order(sort_by, sort_order), limit=limit, offset=offset
            )
            return with_items(found, [replace(worker) for worker in found])

        return await self._read(step, ("workers",))

    @tracked
    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        async def step(tx: Transaction) -> Worker | None:
            found = await tx.rows.find_worker(worker_id)
            return None if found is None else replace(found)

        return await self._read(step, ("workers",))

    @tracked
    async def update_worker(
        self, worker_id: str, heartbeat_stats: dict[str, Any] | Unset = UNSET
    ) -> Worker:
        async def step(tx: Transaction) -> Worker:
            changes: dict[str, Any] = {"last_heartbeat_time": tx.now}
            if not isinstance(heartbeat_stats, Unset):
                changes["heartbeat_stats"] = dict(heartbeat_stats)
            worker = replace(await tx.worker(worker_id), **changes)
            tx.changes.workers[worker_id] = worker
            tx.worker_event(worker)
            return replace(worker)

        return await self._write(step)
