"""Collections of records in Redis: filters and orderings by the indexes, the rest in Python."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    none_rank,
    page,
    sort_records,
)
from agentlightning.store.collections.kinds import Collection, offset_after
from agentlightning.store.collections.redis import pages
from agentlightning.store.collections.redis.layout import Stored, Table, split_entry
from agentlightning.store.collections.redis.plan import Source, source
from agentlightning.store.collections.redis.session import Session, duplicate
from agentlightning.store.record import replace
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Runner(Protocol):
    """Does work in the block at hand, or in one of its own."""

    async def __call__(self, work: Callable[[Session], Awaitable[R]], *, write: bool) -> R:
        """Return what the work returns."""
        ...


class RedisCollection(Collection[M], Generic[M]):
    """Records of one table.

    Args:
        table: How they are kept.
        run: Where its operations happen.
    """

    def __init__(self, table: Table[M], run: Runner) -> None:
        self._table = table
        self._run = run

    def primary_keys(self) -> Sequence[str]:
        return self._table.keys

    def item_type(self) -> type[M]:
        return self._table.model

    async def size(self) -> int:
        async def work(session: Session) -> int:
            await session.revision(self._table.name)
            index = session.server.base + self._table.order_index
            count = await session.server.command("ZCARD", index)
            return count + session.growth(self._table)

        return await self._run(work, write=False)

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        check_page(limit, offset)
        test = compile_filter(filter)
        if sort is not None:
            none_rank(self._table.model, sort["name"])
        found = source(self._table, filter)

        async def work(session: Session) -> PaginatedResult[M]:
            if found.keys is None:
                await session.revision(self._table.name)
            if found.is_complete and not session.own(self._table):
                result = await self._from_index(session, found, sort, limit, offset)
                if result is not None:
                    return result
            records = [
                record
                for record in await self._candidates(session, found)
                if test is None or test(record)
            ]
            return page(sort_records(records, self._table.model, sort), limit, offset)

        return await self._run(work, write=False)

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, M]]:
        async def work(session: Session) -> list[tuple[str, M]]:
            await session.revision(self._table.name)
            found: list[tuple[str, M]] = []
            seen = offset_after(after)
            while len(found) < limit:
                lacking = limit - len(found)
                index = self._table.order_index
                entries = await pages.beyond(session.server, index, seen, lacking)
                keys = [split_entry(raw)[1] for raw in entries]
                # One that was removed in between must not look like the end.
                stored = await session.read(self._table, keys)
                found += [(str(row.ordinal), row.record) for row in stored if row is not None]
                if len(entries) < lacking:
                    break
                seen = split_entry(entries[-1])[0]
            return found

        return await self._run(work, write=False)

    async def _from_index(
        self, session: Session, found: Source, sort: SortOptions | None, limit: int, offset: int
    ) -> PaginatedResult[M] | None:
        """Return a page by reading no more than its records."""
        result = await pages.read_page(session.server, self._table, found, sort, (limit, offset))
        if result is None:
            return None
        keys = [split_entry(raw)[1] for raw in result.entries]
        for key, raw in zip(keys, result.records, strict=False):
            session.remember(self._table, key, raw)
        stored = await session.read(self._table, keys)
        return PaginatedResult[Any].model_construct(
            # One that was removed in between is left out.
            items=[row.record for row in stored if row is not None],
            limit=limit,
            offset=offset,
            total=result.total,
        )

    async def _candidates(self, session: Session, found: Source) -> list[M]:
        """Return all records of a source, and all that the block has changed, in order."""
        keys = found.keys
        if keys is None:
            entries = await pages.all_entries(session.server, found.indexes)
            keys = [split_entry(raw)[1] for raw in entries]
        own = session.own(self._table)
        stored = await session.read(self._table, [*dict.fromkeys([*keys, *own])])
        rows: list[Stored[M]] = [row for row in stored if row is not None]
        return [row.record for row in sorted(rows, key=lambda row: row.ordinal)]

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        found = await self.query(filter, sort, limit=1)
        return found[0] if found else None

    def _checked(self, items: Sequence[M]) -> list[str]:
        """Return the items' keys."""
        for item in items:
            if not isinstance(item, self._table.model):
                raise TypeError(
                    f"The collection holds {self._table.model.__name__}, not {type(item).__name__}."
                )
        return [self._table.key(item) for item in items]

    async def insert(self, items: Sequence[M]) -> None:
        keys = self._checked(items)

        async def work(session: Session) -> None:
            present = await session.read(self._table, keys)
            for key, stored in zip(keys, present, strict=True):
                if stored is not None or keys.count(key) > 1:
                    raise duplicate(self._table, key)
            for key, item in zip(keys, items, strict=True):
                session.put(self._table, key, item)

        if items:
            await self._run(work, write=True)

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        keys = self._checked(items)

        async def work(session: Session) -> list[M]:
            await self._all_present(session, keys)
            return await self._merge(session, keys, items, update_fields)

        return await self._run(work, write=True)

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        keys = self._checked(items)
        return await self._run(
            lambda session: self._merge(session, keys, items, update_fields), write=True
        )

    async def _all_present(self, session: Session, keys: Sequence[str]) -> None:
        for key, stored in zip(keys, await session.read(self._table, keys), strict=True):
            if stored is None:
                raise NotFoundError(
                    f"{self._table.model.__name__} {key!r} is not there; insert it first."
                )

    async def _merge(
        self,
        session: Session,
        keys: Sequence[str],
        items: Sequence[M],
        update_fields: Sequence[str] | None,
    ) -> list[M]:
        """Store items, or some of their fields, and return what is stored then."""
        merged: list[M] = []
        await session.read(self._table, keys)
        for key, item in zip(keys, items, strict=True):
            (stored,) = await session.read(self._table, [key])
            if stored is None or update_fields is None:
                record = item
            else:
                fields = {field: getattr(item, field) for field in update_fields}
                record = replace(stored.record, **fields)
            session.put(self._table, key, record)
            merged.append(record)
        return merged

    async def delete(self, items: Sequence[M]) -> None:
        keys = self._checked(items)

        async def work(session: Session) -> None:
            await self._all_present(session, keys)
            for key in keys:
                session.remove(self._table, key)

        await self._run(work, write=True)
