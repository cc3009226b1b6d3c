"""Reading sorted sets: an index's entries in the order asked for, only as many as are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from agentlightning.store.collections.redis.layout import Table
from agentlightning.store.collections.redis.plan import Source
from agentlightning.store.collections.redis.server import RedisServer
from agentlightning.types import SortOptions

Page = tuple[list[bytes], int]
"""Entries of one page, and how many there are in all."""

_BATCH = 5000


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


def _last(limit: int, offset: int) -> int:
    return -1 if limit == -1 else offset + limit - 1


async def _slice(server: RedisServer, index: str, limit: int, offset: int) -> Page:
    total = await server.command("ZCARD", server.base + index)
    if limit == 0:
        return [], total
    return await entries(server, index, offset, _last(limit, offset)), total


async def _scored(
    server: RedisServer, index: str, start: int, stop: int
) -> list[tuple[float, bytes]]:
    """Return entries from the highest score down, with their scores."""
    raw: Any = await server.command("ZRANGE", server.base + index, start, stop, "REV", "WITHSCORES")
    if raw and not isinstance(raw[0], bytes):
        # The newer protocol, and redis-py for some commands, give pairs.
        return [(float(score), entry) for entry, score in raw]
    flat = cast("list[bytes]", raw)
    return [(float(score), entry) for entry, score in zip(flat[::2], flat[1::2], strict=True)]


async def _descending(server: RedisServer, index: str, limit: int, offset: int) -> Page:
    """Return a page from the end of an index; equal scores stay in order of insertion."""
    total = await server.command("ZCARD", server.base + index)
    if limit == 0 or offset >= total:
        return [], total
    start, stop = offset, total - 1 if limit == -1 else min(_last(limit, offset), total - 1)
    rows = await _scored(server, index, start, stop)
    if rows:
        # The page is widened until it holds all entries with the scores at its two ends.
        highest, lowest = repr(rows[0][0]), repr(rows[-1][0])
        name = server.base + index
        start = await server.command("ZCOUNT", name, f"({highest}", "+inf")
        stop = await server.command("ZCOUNT", name, lowest, "+inf") - 1
        if (start, stop) != (offset, offset + len(rows) - 1):
            rows = await _scored(server, index, start, stop)
    rows.reverse()
    rows.sort(key=lambda row: row[0], reverse=True)
    rows = rows[offset - start :]
    return [entry for _, entry in (rows if limit == -1 else rows[:limit])], total


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
    *,
    limit: int,
    offset: int,
) -> Page | None:
    """Return a page of a source, or None where no index has the order that is asked for."""
    end = None if limit == -1 else offset + limit
    only = source.indexes[0] if len(source.indexes) == 1 else None
    ranked = table.rank is not None and only != table.order_index
    if sort is None:
        if only is not None and not ranked:
            return await _slice(server, only, limit, offset)
        found = await all_entries(server, source.indexes)
        return found[offset:end], len(found)
    descending = sort["order"] == "desc"
    index: str | None = None
    if ranked and sort["name"] == table.rank:
        index = only
    elif sort["name"] in table.times:
        times = f"{table.name}:by:{sort['name']}"
        if only != table.order_index:
            found = await _by_scores(server, source.indexes, times, descending=descending)
            return found[offset:end], len(found)
        index = times
    if index is None:
        return None
    return await (_descending if descending else _slice)(server, index, limit, offset)
