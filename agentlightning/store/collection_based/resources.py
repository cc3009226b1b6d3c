"""Publishing resources as immutable, versioned snapshots."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning._internal.ids import new_resources_id
from agentlightning.errors import InvalidRequestError
from agentlightning.store.base import SortOrder
from agentlightning.store.collection_based.frame import StoreFrame, healthcheck_before, tracked
from agentlightning.store.collection_based.queries import order
from agentlightning.store.collection_based.replies import SNAPSHOT, find_version
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.types import NamedResources, PaginatedResult, ResourcesUpdate

_TICK = 1e-6
"""Seconds between two snapshots that were made at the same time, so that one is the latest."""


def _versioned(resources_id: str) -> tuple[str, int] | None:
    """Return the id and version that `<id>@<version>` names, or None for a plain id."""
    base, mark, version = resources_id.rpartition("@")
    return (base, int(version)) if mark and version.isdecimal() else None


def _check_plain(resources_id: str) -> None:
    if _versioned(resources_id) is not None:
        raise InvalidRequestError(
            f"{resources_id!r} names one version, which never changes; "
            "use the id without its version."
        )


class ResourceMethods(StoreFrame):
    """`add_resources`, `update_resources`, `query_resources` and `get_*resources*`."""

    @tracked
    async def add_resources(
        self, resources: NamedResources, *, resources_id: str | None = None
    ) -> ResourcesUpdate:
        if resources_id is None:
            return await self._publish("add_resources", new_resources_id(), resources)
        _check_plain(resources_id)
        return await self._publish("add_resources", resources_id, resources, only_new=True)

    @tracked
    @healthcheck_before
    async def update_resources(
        self, resources_id: str, resources: NamedResources
    ) -> ResourcesUpdate:
        _check_plain(resources_id)
        return await self._publish("update_resources", resources_id, resources)

    async def _publish(
        self, call: str, resources_id: str, resources: NamedResources, *, only_new: bool = False
    ) -> ResourcesUpdate:
        async def step(tx: Transaction) -> ResourcesUpdate:
            newest = await tx.rows.find_newest_resources()
            old = await tx.rows.resources.get({"resources_id": {"exact": resources_id}})
            if old is not None and only_new:
                return old
            time = max(tx.now, newest.update_time + _TICK) if newest is not None else tx.now
            update = ResourcesUpdate(
                resources_id=resources_id,
                create_time=time if old is None else old.create_time,
                update_time=time,
                version=1 if old is None else old.version + 1,
                resources=resources,
            ).model_copy(deep=True)
            tx.publish(update, old=old)
            return update

        return (await self._once(call, step, SNAPSHOT)).model_copy(deep=True)

    @tracked
    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[ResourcesUpdate]:
        async def step(tx: Transaction) -> PaginatedResult[ResourcesUpdate]:
            return await tx.rows.resources.query(
                {"resources_id": {"exact": resources_id, "contains": resources_id_contains}},
                order(sort_by, sort_order),
                limit=limit,
                offset=offset,
            )

        return await self._read(step, ("resources",))

    @tracked
    async def get_resources_by_id(self, resources_id: str) -> ResourcesUpdate | None:
        async def step(tx: Transaction) -> ResourcesUpdate | None:
            found = await tx.rows.resources.get({"resources_id": {"exact": resources_id}})
            versioned = _versioned(resources_id)
            if found is not None or versioned is None:
                return found
            return await find_version(tx, *versioned)

        found = await self._read(step, ("resources",))
        return None if found is None else found.model_copy(deep=True)

    @tracked
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        async def step(tx: Transaction) -> ResourcesUpdate | None:
            return await tx.rows.find_newest_resources()

        found = await self._read(step, ("resources",))
        return None if found is None else found.model_copy(deep=True)
