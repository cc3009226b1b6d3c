"""One collection of records in one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel
from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
    update,
)

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import Collection, DuplicatedPrimaryKeyError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    page,
    sort_records,
)
from agentlightning.store.collections.sql.codec import decode, encode
from agentlightning.store.collections.sql.condition import Order, sql_filter, sql_order
from agentlightning.store.collections.sql.statement import Statement
from agentlightning.store.record import replace
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


class Runner(Protocol):
    """Where a collection's statements run: in the transaction at hand, or in one of their own."""

    def __call__(self, work: Callable[[Connection], R], *, write: bool) -> Awaitable[R]:
        """Do the work and return its result."""
        ...


@contextmanager
def all_or_none(connection: Connection, count: int) -> Generator[None]:
    """Undo the block's statements if one of several fails, and keep the transaction alive."""
    if count <= 1:
        yield
        return
    with connection.begin_nested():
        yield


class SqlCollection(Collection[M]):
    """Records in a table of `schema`."""

    def __init__(self, table: Table, run: Runner) -> None:
        self._table = table
        self._model: type[M] = table.info["model"]
        self._keys: tuple[str, ...] = table.info["keys"]
        self._fields = tuple(
            column.name for column in table.columns if column.name not in {"ordinal", "payload"}
        )
        self._run = run
        by_key = and_(*(table.c[key] == bindparam(f"key_{key}") for key in self._keys))
        given = {name: bindparam(name) for name in (*self._fields, "payload")}
        self._get = Statement(select(table.c.payload).where(by_key))
        self._firsts: dict[tuple[Any, ...], Statement] = {}
        self._insert = Statement(insert(table).values(given))
        self._update = Statement(update(table).where(by_key).values(given))
        self._delete = Statement(delete(table).where(by_key))
        self._size = Statement(select(func.count()).select_from(table))

    def primary_keys(self) -> Sequence[str]:
        return self._keys

    def item_type(self) -> type[M]:
        return self._model

    def _row(self, item: M) -> dict[str, Any]:
        if not isinstance(item, self._model):
            raise TypeError(
                f"The collection holds {self._model.__name__}, not {type(item).__name__}."
            )
        fields = item.__dict__
        row = {name: fields[name] for name in self._fields}
        row["payload"] = encode(item)
        return row

    def _key(self, item: M) -> dict[str, Any]:
        return {f"key_{key}": getattr(item, key) for key in self._keys}

    def _missing(self, item: M) -> NotFoundError:
        key = tuple(getattr(item, name) for name in self._keys)
        return NotFoundError(f"{self._model.__name__} {key} is not there; insert it first.")

    async def size(self) -> int:
        return await self._run(lambda connection: self._size.scalar(connection, {}), write=False)

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        check_page(limit, offset)
        where = sql_filter(self._table, filter)
        terms = sql_order(self._table, self._model, sort)
        if where is None or terms is None:
            records = await self._run(
                lambda connection: self._scan(connection, filter), write=False
            )
            return page(sort_records(records, self._model, sort), limit, offset)
        statement = select(self._table.c.payload).where(where).order_by(*terms)
        if limit != -1 or offset:
            statement = statement.limit(limit).offset(offset)

        def work(connection: Connection) -> PaginatedResult[M]:
            items = [decode(self._model, text) for text in connection.scalars(statement)]
            whole = limit == -1 and not offset
            total = len(items) if whole else self._count(connection, where)
            return PaginatedResult[Any].model_construct(
                items=items, limit=limit, offset=offset, total=total
            )

        return await self._run(work, write=False)

    def _count(self, connection: Connection, where: ColumnElement[bool]) -> int:
        return connection.execute(
            select(func.count()).select_from(self._table).where(where)
        ).scalar_one()

    def _scan(self, connection: Connection, options: FilterOptions | None) -> list[M]:
        """Return what matches a filter that SQL cannot express."""
        test = compile_filter(options)
        statement = select(self._table.c.payload).order_by(self._table.c.ordinal)
        records = (decode(self._model, text) for text in connection.scalars(statement))
        return [record for record in records if test is None or test(record)]

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        parameters = self._exact(filter)
        terms = sql_order(self._table, self._model, sort)
        if parameters is None or terms is None:
            found = await self.query(filter, sort, limit=1)
            return found[0] if found else None
        statement = self._first_of(tuple(parameters), terms, sort)
        text = await self._run(
            lambda connection: statement.scalar(connection, parameters), write=False
        )
        return None if text is None else decode(self._model, text)

    def _exact(self, options: FilterOptions | None) -> dict[str, Any] | None:
        """Return the parameters of a filter that only asks for exact values of columns."""
        parameters: dict[str, Any] = {}
        for field, operations in (options or {}).items():
            if field not in self._fields or len(operations) != 1:
                return None
            value = operations.get("exact")
            if value is None:
                return None
            parameters[f"key_{field}"] = value
        return parameters

    def _first_of(
        self, parameters: tuple[str, ...], terms: list[Order], sort: SortOptions | None
    ) -> Statement:
        """Return the statement for the first record, built once for each kind of question.

        Perf: building and hashing a statement takes ten times as long as running it.
        """
        kind = (parameters, *sort.values()) if sort else (parameters,)
        statement = self._firsts.get(kind)
        if statement is None:
            columns = self._table.c
            tests = [columns[name.removeprefix("key_")] == bindparam(name) for name in parameters]
            statement = Statement(
                select(columns.payload).where(true(), *tests).order_by(*terms).limit(1)
            )
            self._firsts[kind] = statement
        return statement

    async def insert(self, items: Sequence[M]) -> None:
        if not items:
            return
        rows = [self._row(item) for item in items]

        def work(connection: Connection) -> None:
            try:
                with all_or_none(connection, len(rows)):
                    self._insert.change_many(connection, rows)
            except connection.dialect.loaded_dbapi.IntegrityError as error:
                raise DuplicatedPrimaryKeyError(
                    f"{self._model.__name__} is there already, or is given twice; "
                    "update it instead."
                ) from error

        await self._run(work, write=True)

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        def work(connection: Connection) -> list[M]:
            with all_or_none(connection, len(items)):
                stored = [self._merge(connection, item, update_fields) for item in items]
                for item, record in zip(items, stored, strict=True):
                    if record is None:
                        raise self._missing(item)
            return cast("list[M]", stored)

        return await self._run(work, write=True)

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        def put(connection: Connection, item: M) -> M:
            stored = self._merge(connection, item, update_fields)
            if stored is None:
                self._insert.change(connection, self._row(item))
                return item
            return stored

        def work(connection: Connection) -> list[M]:
            with all_or_none(connection, len(items)):
                return [put(connection, item) for item in items]

        return await self._run(work, write=True)

    def _merge(
        self, connection: Connection, item: M, update_fields: Sequence[str] | None
    ) -> M | None:
        """Update a record and return what is stored then, or None when it is not there."""
        key = self._key(item)
        if update_fields is not None:
            text = self._get.scalar(connection, key)
            if text is None:
                return None
            old = decode(self._model, text)
            item = replace(old, **{field: getattr(item, field) for field in update_fields})
        changed = self._update.change(connection, {**self._row(item), **key})
        return item if changed else None

    async def delete(self, items: Sequence[M]) -> None:
        def work(connection: Connection) -> None:
            with all_or_none(connection, len(items)):
                for item in items:
                    if not self._delete.change(connection, self._key(item)):
                        raise self._missing(item)

        await self._run(work, write=True)
