"""Reading sorted sets: an index's entries in the order asked for, only as many as are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from agentlightning.store.collections.redis import scripts
from agentlightning.store.collections.redis.layout import Table
from agentlightning.store.collections.redis.plan import Source
from agentlightning.store.collections.redis.server import RedisServer
from agentlightning.types import SortOptions

Range = tuple[int, int]
"""Limit, or -1 for no limit, and offset."""

_BATCH: Final = 5000
_MOST_RECORDS: Final = 500
"""Longer pages are read in several commands, so that others get their turn in between."""


class Page(NamedTuple):
    """What an index says about a page."""

    entries: Sequence[bytes]
    total: int
    """How many entries there are in all."""
    records: Sequence[bytes | None]
    """The entries' records, or nothing where they are still to be read."""


async def entries(server: RedisServer, index: str, start: int = 0, stop: int = -1) -> list[bytes]:
    """Return the entries from one rank to another, both included."""
    return await server.command("ZRANGE", server.base + index, start, stop)


async def all_entries(server: RedisServer, indexes: Sequence[str]) -> list[bytes]:
    """Return the entries of several indexes in order of insertion."""
    found: list[bytes] = []
    for index in indexes:
        found += await entries(server, index)
    # Each begins with its ordinal in digits.
    return sorted(found)


async def beyond(server: RedisServer, index: str, ordinal: int, count: int) -> list[bytes]:
    """Return the first entries beyond an ordinal of an index that is in order of insertion."""
    return await server.command(
        "ZRANGEBYSCORE", server.base + index, f"({ordinal}", "+inf", "LIMIT", 0, count
    )


async def _single(
    server: RedisServer, table: Table[Any], index: str, sort: SortOptions | None, at: Range
) -> Page:
    limit, offset = at
    descending = sort is not None and sort["order"] == "desc"
    total, found, records = await server.script(
        scripts.PAGE,
        index,
        table.name,
        offset,
        limit,
        int(descending),
        int(0 <= limit <= _MOST_RECORDS),
    )
    return Page(found, total, records)


async def _by_scores(
    server: RedisServer, indexes: Sequence[str], scores: str, *, descending: bool
) -> list[bytes]:
    """Return the entries of some indexes in the order of another one."""
    found = await all_entries(server, indexes)
    ranks: list[float] = []
    for start in range(0, len(found), _BATCH):
        batch: Any = found[start : start + _BATCH]
        raw = await server.command("ZMSCORE", server.base + scores, *batch)
        ranks += [0.0 if score is None else float(score) for score in raw]
    order = sorted(range(len(found)), key=ranks.__getitem__, reverse=descending)
    return [found[position] for position in order]


async def read_page(
    server: RedisServer,
    table: Table[Any],
    source: Source,
    sort: SortOptions | None,
    at: Range,
) -> Page | None:
    """Return a page of a source, or None where no index has the order that is asked for."""
    limit, offset = at
    only = source.indexes[0] if len(source.indexes) == 1 else None
    everything = only == table.order_index
    owned = table.rank is not None and not everything
    if sort is None:
        if only is not None and not owned:
            return await _single(server, table, only, None, at)
        found = await all_entries(server, source.indexes)
    elif owned and only is not None and sort["name"] == table.rank:
        return await _single(server, table, only, sort, at)
    elif sort["name"] in table.times:
        times = f"{table.name}:by:{sort['name']}"
        if everything:
            return await _single(server, table, times, sort, at)
        descending = sort["order"] == "desc"
        found = await _by_scores(server, source.indexes, times, descending=descending)
    else:
        return None
    end = None if limit == -1 else offset + limit
    return Page(found[offset:end], len(found), ())
