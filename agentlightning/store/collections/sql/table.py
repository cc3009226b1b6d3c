"""One collection of records in one table: the questions that can be anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, Table, func, select

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    conditions,
    is_any,
    page,
    sort_records,
)
from agentlightning.store.collections.kinds import Collection, offset_after
from agentlightning.store.collections.sql import upkeep
from agentlightning.store.collections.sql.condition import Filter, Order, sql_order
from agentlightning.store.collections.sql.records import Records
from agentlightning.store.collections.sql.statement import Executor
from agentlightning.store.collections.sql.tags import count_tagged
from agentlightning.store.collections.sql.totals import (
    Facets,
    Totals,
    facet_total,
    only_facets,
    read_facets,
    read_totals,
    total_of,
)
from agentlightning.store.record import replace
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

_MANY_TAGGED: Final = 100_000
"""So many rollouts are not looked up by their metadata one by one."""
_COMMON: Final = 20_000
"""So many matches are found sooner by walking along the order than by sorting them."""
_FEW: Final = 2000
"""So many matches are looked up one by one."""


class Runner(Protocol):
    """Where a collection's statements run: in the transaction at hand, or in one of their own."""

    def __call__(self, work: Callable[[Executor], R], *, write: bool) -> Awaitable[R]:
        """Do the work and return its result."""
        ...


class SqlCollection(Collection[M]):
    """Records in a table of `schema`.

    Args:
        records: The table's rows.
        run: Where to run.
    """

    def __init__(self, records: Records[M], run: Runner) -> None:
        self._records = records
        self._table: Table = records.table
        self._model: type[M] = records.model
        self._run = run

    def primary_keys(self) -> Sequence[str]:
        return self._records.keys

    def item_type(self) -> type[M]:
        return self._model

    async def size(self) -> int:
        return await self._run(lambda executor: total_of(executor, self._table.name), write=False)

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        check_page(limit, offset)

        def work(executor: Executor) -> PaginatedResult[M]:
            return self._page(executor, filter, sort, limit, offset)

        return await self._run(work, write=False)

    def _page(
        self,
        executor: Executor,
        options: FilterOptions | None,
        sort: SortOptions | None,
        limit: int,
        offset: int,
    ) -> PaginatedResult[M]:
        if limit != -1:
            options = self._narrowed(executor, options)
        facets = self._facets(executor, options) if limit != -1 else {}
        tagged = self._tagged(executor, options) if limit != -1 else None
        common = _common_fields(options, facets)
        if tagged is not None and tagged > _MANY_TAGGED:
            common.add("metadata")
        where = Filter(self._table, common).sql(options)
        terms = sql_order(self._table, self._model, sort)
        if where is None or terms is None:
            records = self._scan(executor, options)
            return page(sort_records(records, self._model, sort), limit, offset)
        items = self._load(executor, self._rows(where, terms, limit, offset)) if limit else []
        whole = (limit == -1 and not offset) or (0 < len(items) < limit and not offset)
        if whole:
            total = len(items)
        elif tagged is not None and _is_one_tag(options):
            total = tagged
        else:
            total = self._total(executor, options, where, facets)
        return PaginatedResult[Any].model_construct(
            items=items, limit=limit, offset=offset, total=total
        )

    def _narrowed(self, executor: Executor, options: FilterOptions | None) -> FilterOptions | None:
        """Return a filter with the keys themselves in place of a part of them, if they are few.

        Perf: the index on the keys is a third of the table. Of many, a page is found soon anyway.
        """
        key = self._records.keys[0]
        own = conditions(options) if options else []
        asked = [operator for field, operator, _ in own if field == key]
        if len(self._records.keys) > 1 or options is None or asked != ["contains"]:
            return options
        test = Filter(self._table).sql({key: options[key]})
        if test is None:
            return options
        query = select(self._table.c[key]).where(test).limit(_FEW + 1)
        found = [row[0] for row in executor.select(query)]
        narrowed: Any = {**options, key: {"within": found}}
        return narrowed if len(found) <= _FEW else options

    def _rows(
        self, where: ColumnElement[bool], terms: Sequence[Order], limit: int, offset: int
    ) -> Select[Any]:
        if not offset:
            statement = self._records.select_all().where(where).order_by(*terms)
            return statement if limit == -1 else statement.limit(limit)
        # Perf: what is passed over is only looked at in an index, not read as a whole.
        ordinal = self._table.c.ordinal
        places = select(ordinal).where(where).order_by(*terms).offset(offset)
        if limit != -1:
            places = places.limit(limit)
        return self._records.select_all().where(ordinal.in_(places)).order_by(*terms)

    def _load(self, executor: Executor, statement: Select[Any]) -> list[M]:
        return self._records.decode(executor, executor.select(statement))

    def _facets(self, executor: Executor, options: FilterOptions | None) -> Facets:
        if self._table.name != "rollouts":
            return {}
        return read_facets(read_totals(executor))

    def _tagged(self, executor: Executor, options: FilterOptions | None) -> int | None:
        """Return how many rollouts have the metadata that a filter asks for, at most."""
        if self._table.name != "rollouts":
            return None
        for _, operator, operand in conditions(options) if options else ():
            if operator == "has":
                return count_tagged(executor, operand)
        return None

    def _total(
        self,
        executor: Executor,
        options: FilterOptions | None,
        where: ColumnElement[bool],
        facets: Facets,
    ) -> int:
        """Return how many records match: by the totals if they tell, else by counting."""
        own = conditions(options) if options else []
        if self._table.name == "rollouts" and facets and only_facets(options, own):
            return facet_total(facets, own, bool(own) and is_any(options or {}))
        if not own and not (options or {}).get("_must"):
            return total_of(executor, self._table.name)
        counting = select(func.count()).select_from(self._table).where(where)
        return executor.select(counting)[0][0]

    def _scan(self, executor: Executor, options: FilterOptions | None) -> list[M]:
        """Return what matches a filter that SQL cannot express."""
        test = compile_filter(options)
        statement = self._records.select_all().order_by(self._table.c.ordinal)
        records = self._records.decode(executor, executor.select(statement))
        return records if test is None else [record for record in records if test(record)]

    async def scan(self, after: str | None = None, limit: int = 1000) -> Sequence[tuple[str, M]]:
        start = offset_after(after)
        return await self._run(
            lambda executor: upkeep.scan(executor, self._records, start, limit), write=False
        )

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        found = await self._run(lambda executor: self._first(executor, filter, sort), write=False)
        return found[0] if found else None

    def _first(
        self, executor: Executor, options: FilterOptions | None, sort: SortOptions | None
    ) -> Sequence[M]:
        key = _exact_key(options, self._records.keys)
        if key is not None:
            return self._records.by_key(executor, [key])
        where = Filter(self._table).sql(options)
        terms = sql_order(self._table, self._model, sort)
        if where is None or terms is None:
            return sort_records(self._scan(executor, options), self._model, sort)[:1]
        return self._load(
            executor, self._records.select_all().where(where).order_by(*terms).limit(1)
        )

    def _check_type(self, items: Sequence[M]) -> None:
        for item in items:
            if not isinstance(item, self._model):
                raise TypeError(
                    f"The collection holds {self._model.__name__}, not {type(item).__name__}."
                )

    async def insert(self, items: Sequence[M]) -> None:
        self._check_type(items)

        def work(executor: Executor) -> None:
            totals = Totals()
            with executor.savepoint():
                self._records.insert(executor, items, totals)
            totals.flush(executor)

        if items:
            await self._run(work, write=True)

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)

        def work(executor: Executor) -> list[M]:
            old = self._stored(executor, items)
            for item, record in zip(items, old, strict=True):
                if record is None:
                    raise self._missing(item)
            return self._put(executor, items, update_fields)

        return await self._run(work, write=True)

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)
        return await self._run(
            lambda executor: self._put(executor, items, update_fields), write=True
        )

    def _put(
        self, executor: Executor, items: Sequence[M], update_fields: Sequence[str] | None
    ) -> list[M]:
        """Insert or update records one by one, for an item may occur twice."""
        totals = Totals()
        stored: list[M] = []
        with executor.savepoint():
            for item in items:
                (old,) = self._stored(executor, [item])
                new = item
                if old is None:
                    self._records.insert(executor, [new], totals)
                else:
                    if update_fields is not None:
                        new = replace(old, **{name: getattr(item, name) for name in update_fields})
                    self._records.update(executor, [(old, new)], totals)
                stored.append(new)
        totals.flush(executor)
        return stored

    def _stored(self, executor: Executor, items: Sequence[M]) -> list[M | None]:
        keys = [self._records.key(item) for item in items]
        found = {
            self._records.key(record): record
            for record in self._records.by_key(executor, list(dict.fromkeys(keys)))
        }
        return [found.get(key) for key in keys]

    def _missing(self, item: M) -> NotFoundError:
        return NotFoundError(
            f"{self._model.__name__} {self._records.key(item)} is not there; insert it first."
        )

    async def delete(self, items: Sequence[M]) -> None:
        def work(executor: Executor) -> None:
            old = self._stored(executor, items)
            for item, record in zip(items, old, strict=True):
                if record is None:
                    raise self._missing(item)
            totals = Totals()
            self._records.delete(executor, cast("list[M]", old), totals)
            totals.flush(executor)

        await self._run(work, write=True)


def _is_one_tag(options: FilterOptions | None) -> bool:
    """Return whether a filter asks for one metadata pair and nothing else."""
    own = conditions(options) if options else []
    return len(own) == 1 and not (options or {}).get("_must") and len(own[0][2]) == 1


def _exact_key(options: FilterOptions | None, keys: Sequence[str]) -> tuple[Any, ...] | None:
    """Return the key when a filter is nothing but a primary key."""
    if not options or len(options) != len(keys):
        return None
    values: list[Any] = []
    for key in keys:
        operations: Mapping[str, Any] = options.get(key) or {}
        value = operations.get("exact")
        if len(operations) != 1 or not isinstance(value, str | int):
            return None
        values.append(value)
    return tuple(values)


def _common_fields(options: FilterOptions | None, facets: Facets) -> set[str]:
    """Return the facets that so many rollouts have that an index on them would not help."""
    common: set[str] = set()
    for field, operator, operand in conditions(options) if options and facets else ():
        wanted = {operand} if operator == "exact" else operand
        if field in {"status", "mode"} and operator in {"exact", "within"}:
            place = 0 if field == "status" else 1
            count = sum(number for facet, number in facets.items() if facet[place] in wanted)
            if count > _COMMON:
                common.add(field)
    return common
