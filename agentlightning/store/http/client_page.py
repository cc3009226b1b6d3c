"""How the client asks for pages and leaves out what was not given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from agentlightning.store.base import UNSET
from agentlightning.store.http.operation import API_PREFIX
from agentlightning.store.http.transport import Transport
from agentlightning.store.http.wire import encode
from agentlightning.types import PaginatedResult

__all__ = ["fetch_page", "given", "read_page"]

ItemT = TypeVar("ItemT")


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not `UNSET`."""
    return {name: value for name, value in fields.items() if value is not UNSET}


async def fetch_page(
    transport: Transport,
    path: str,
    query: dict[str, Any],
    limit: int,
    offset: int,
    read: Callable[[Any], ItemT],
) -> PaginatedResult[ItemT]:
    """Send a search and return its page; a limit of 0 gives the total and no items."""
    asked = {name: value for name, value in query.items() if value is not None}
    # The route refuses a page of nothing, which a store in the same process allows.
    body = encode({**asked, "limit": limit or 1, "offset": offset})
    answer = await transport.request("POST", API_PREFIX + path, body)
    return read_page(answer.json(), limit, read)


def read_page(
    raw: dict[str, Any], limit: int, read: Callable[[Any], ItemT]
) -> PaginatedResult[ItemT]:
    """Return a page from its wire form."""
    items = [read(item) for item in raw["items"]] if limit != 0 else []
    return PaginatedResult[Any].model_construct(
        items=items, limit=limit, offset=raw["offset"], total=raw["total"]
    )
