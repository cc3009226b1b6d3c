"""Routes of resources and of workers."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from agentlightning.store.http.exchange import Exchange
from agentlightning.store.http.operation import Operation
from agentlightning.store.http.schemas import (
    Identifier,
    ResourceSearch,
    WorkerSearch,
    WorkerUpdate,
    reject_nulls,
)
from agentlightning.store.http.wire import page_body
from agentlightning.types import NamedResources, PaginatedResult, ResourcesUpdate, Worker

__all__ = ["OPERATIONS"]

_named_resources: Final[TypeAdapter[NamedResources]] = TypeAdapter(NamedResources)


class NewResources(BaseModel):
    """Query of a publication; the body is the resources by name."""

    resources_id: Identifier | None = None
    """An id made by the caller; what was published under it before is answered again."""


class WorkerRegistration(WorkerUpdate):
    """A worker that announces itself."""

    worker_id: Identifier


async def list_resources(exchange: Exchange) -> dict[str, Any]:
    """List the newest version of each id."""
    search = exchange.parse_query(ResourceSearch)
    found = await exchange.store.query_resources(**search.checked())
    return page_body(found, search.limit, search.offset)


async def add_resources(exchange: Exchange) -> ResourcesUpdate:
    """Publish resources under a new id."""
    resources = _named_resources.validate_python(exchange.json())
    wanted = exchange.parse_query(NewResources).resources_id
    if wanted is None:
        return await exchange.store.add_resources(resources)
    return await exchange.store.add_resources(resources, resources_id=wanted)


async def latest_resources(exchange: Exchange) -> ResourcesUpdate | None:
    """Return the snapshot that was made last, or null."""
    return await exchange.store.get_latest_resources()


async def get_resources(exchange: Exchange) -> ResourcesUpdate | None:
    """Return one snapshot, or null."""
    return await exchange.store.get_resources_by_id(exchange.path["resources_id"])


async def update_resources(exchange: Exchange) -> ResourcesUpdate:
    """Publish the next version of an id."""
    resources = _named_resources.validate_python(exchange.json())
    return await exchange.store.update_resources(exchange.path["resources_id"], resources)


async def list_workers(exchange: Exchange) -> dict[str, Any]:
    """List workers by a query string."""
    return await _workers(exchange, exchange.parse_query(WorkerSearch))


async def search_workers(exchange: Exchange) -> dict[str, Any]:
    """List workers by a JSON query."""
    return await _workers(exchange, exchange.parse_optional(WorkerSearch))


async def _workers(exchange: Exchange, search: WorkerSearch) -> dict[str, Any]:
    found = await exchange.store.query_workers(**search.checked())
    return page_body(found, search.limit, search.offset)


async def get_worker(exchange: Exchange) -> Worker | None:
    """Return one worker, or null."""
    return await exchange.store.get_worker_by_id(exchange.path["worker_id"])


async def update_worker(exchange: Exchange) -> Worker:
    """Record a heartbeat of a worker, which is added if unknown."""
    return await _heartbeat(
        exchange, exchange.path["worker_id"], exchange.parse_optional(WorkerUpdate)
    )


async def register_worker(exchange: Exchange) -> Worker:
    """Add a worker."""
    body = exchange.parse(WorkerRegistration)
    return await _heartbeat(exchange, body.worker_id, body)


async def _heartbeat(exchange: Exchange, worker_id: str, body: WorkerUpdate) -> Worker:
    reject_nulls(body, "heartbeat_stats")
    stats = body.heartbeat_stats
    if stats is None:
        return await exchange.store.update_worker(worker_id)
    return await exchange.store.update_worker(worker_id, stats)


def _listing(path: str, handler: Any, search: type[BaseModel], item: type[BaseModel]) -> Operation:
    return Operation(
        method="POST" if path.endswith("/search") else "GET",
        path=path,
        handler=handler,
        summary=f"List {path.split('/')[1]}",
        takes=search,
        returns=PaginatedResult[item],
    )


OPERATIONS: Final = (
    _listing("/resources", list_resources, ResourceSearch, ResourcesUpdate),
    Operation(
        method="POST",
        path="/resources",
        handler=add_resources,
        summary="Publish resources under a new id",
        takes=NamedResources,
        query=NewResources,
        returns=ResourcesUpdate,
        status=201,
        replayable=True,
    ),
    Operation(
        method="GET",
        path="/resources/latest",
        handler=latest_resources,
        summary="Get the snapshot that was made last",
        returns=ResourcesUpdate | None,
    ),
    Operation(
        method="GET",
        path="/resources/{resources_id}",
        handler=get_resources,
        summary="Get one snapshot",
        returns=ResourcesUpdate | None,
    ),
    *(
        Operation(
            method=method,
            path="/resources/{resources_id}",
            handler=update_resources,
            summary="Publish the next version of an id",
            takes=NamedResources,
            returns=ResourcesUpdate,
            replayable=True,
        )
        for method in ("POST", "PUT")
    ),
    _listing("/workers", list_workers, WorkerSearch, Worker),
    _listing("/workers/search", search_workers, WorkerSearch, Worker),
    Operation(
        method="POST",
        path="/workers",
        handler=register_worker,
        summary="Add a worker",
        takes=WorkerRegistration,
        returns=Worker,
        status=201,
    ),
    Operation(
        method="GET",
        path="/workers/{worker_id}",
        handler=get_worker,
        summary="Get one worker",
        returns=Worker | None,
    ),
    *(
        Operation(
            method="POST",
            path=path,
            handler=update_worker,
            summary="Record a heartbeat of a worker",
            takes=WorkerUpdate,
            returns=Worker,
        )
        for path in ("/workers/{worker_id}", "/workers/{worker_id}/heartbeat")
    ),
)
