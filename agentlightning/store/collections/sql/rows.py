"""The collections of a SQL database, wherever their statements run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from agentlightning.store.collections.base import LightningCollections
from agentlightning.store.collections.kinds import BackendFault
from agentlightning.store.collections.sql import upkeep
from agentlightning.store.collections.sql.records import (
    ATTEMPTS,
    RESOURCE_VERSIONS,
    RESOURCES,
    ROLLOUTS,
    SPANS,
    WORKERS,
    Records,
)
from agentlightning.store.collections.sql.sequence import SqlCounters, SqlJournal, SqlQueue
from agentlightning.store.collections.sql.table import Runner, SqlCollection
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Span, Worker

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", SqlQueue, SqlCounters, SqlJournal)


class SqlRows(LightningCollections):
    """Everything a store keeps, as collections that are made when they are asked for.

    Args:
        run: Where statements run.
    """

    loop_agnostic = True
    keeps_replies = True

    def __init__(self, run: Runner) -> None:
        self._runner = run
        self._made: dict[str, Any] = {}

    def _table(self, records: Records[M]) -> SqlCollection[M]:
        name = records.table.name
        if name not in self._made:
            self._made[name] = SqlCollection(records, self._runner)
        return self._made[name]

    def _other(self, kind: type[T]) -> T:
        name = kind.__name__
        if name not in self._made:
            self._made[name] = kind(self._runner)
        return self._made[name]

    @property
    def rollouts(self) -> SqlCollection[Rollout]:
        return self._table(ROLLOUTS)

    @property
    def attempts(self) -> SqlCollection[Attempt]:
        return self._table(ATTEMPTS)

    @property
    def spans(self) -> SqlCollection[Span]:
        return self._table(SPANS)

    @property
    def resources(self) -> SqlCollection[ResourcesUpdate]:
        return self._table(RESOURCES)

    @property
    def resource_versions(self) -> SqlCollection[ResourcesUpdate]:
        return self._table(RESOURCE_VERSIONS)

    @property
    def workers(self) -> SqlCollection[Worker]:
        return self._table(WORKERS)

    @property
    def rollout_queue(self) -> SqlQueue:
        return self._other(SqlQueue)

    @property
    def span_sequence_ids(self) -> SqlCounters:
        return self._other(SqlCounters)

    @property
    def events(self) -> SqlJournal:
        return self._other(SqlJournal)

    async def count_by_status(self) -> dict[str, int]:
        return await self._runner(upkeep.count_by_status, write=False)

    async def find_storage_bytes(self) -> int | None:
        return await self._runner(upkeep.storage_bytes, write=False)

    async def find_span_bytes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        return await self._runner(
            lambda executor: upkeep.span_bytes(executor, rollout_ids), write=False
        )

    async def remove(self, rollout_ids: Sequence[str], *, spans_only: bool) -> int:
        return await self._runner(
            lambda executor: upkeep.remove(executor, rollout_ids, spans_only=spans_only),
            write=True,
        )

    async def find_faults(self) -> Sequence[BackendFault]:
        return await self._runner(upkeep.content_faults, write=False)

    async def mend(self) -> None:
        await self._runner(upkeep.mend_contents, write=True)
