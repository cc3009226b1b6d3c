"""Statements that are compiled once for each kind of database and run on the driver itself.

Perf: the hot calls run a dozen small statements; SQLAlchemy's execution of a compiled statement
takes 20 to 70 µs of its own, SQLite's driver 1 to 5. Statements are still written in SQLAlchemy's
language, so each database gets its own SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any, Protocol, cast

from sqlalchemy import BigInteger, ClauseElement, ColumnElement, Dialect, Table, Text, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import Boolean

Parameters = Sequence[Any]
Bind = Callable[[Parameters], Any]


class Statement:
    """One SQL statement whose parameters are given in a fixed order.

    Args:
        clause: The statement, or what makes it for a dialect.
        names: Its parameters, in the order in which they will be given.
    """

    def __init__(
        self, clause: ClauseElement | Callable[[Dialect], ClauseElement], *names: str
    ) -> None:
        self._clause = clause
        self._names = names
        self.forms: dict[str, tuple[str, Bind]] = {}
        """What `compiled` has returned, by the dialect's name."""

    def compiled(self, dialect: Dialect) -> tuple[str, Bind]:
        """Return the SQL text, and what brings parameters into its order."""
        known = self.forms.get(dialect.name)
        if known is None:
            known = self.forms[dialect.name] = self._compile(dialect)
        return known

    def _compile(self, dialect: Dialect) -> tuple[str, Bind]:
        clause = self._clause
        if not isinstance(clause, ClauseElement):
            clause = clause(dialect)
        text, names, values = render(clause, dialect)
        constants = [values[name] for name in names if name not in self._names]
        places = [name for name in names if name not in self._names]
        order = [
            self._names.index(name)
            if name in self._names
            else len(self._names) + places.index(name)
            for name in names
        ]
        return text, _binder(order, constants, len(self._names))


def _binder(order: list[int], constants: list[Any], given: int) -> Bind:
    if not constants and order == list(range(given)):
        return tuple
    if not order:
        return lambda _: ()
    if len(order) == 1:
        return lambda parameters: ([*parameters, *constants][order[0]],)
    pick = itemgetter(*order)
    if not constants:
        return cast("Bind", pick)
    return lambda parameters: pick([*parameters, *constants])


def render(clause: ClauseElement, dialect: Dialect) -> tuple[str, Sequence[str], dict[str, Any]]:
    """Return a statement's SQL, its parameters' names in order, and their values by name."""
    compiled = clause.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    names: Sequence[str] = getattr(compiled, "positiontup", None) or ()
    return str(compiled), tuple(names), dict(compiled.params or {})


class Executor(Protocol):
    """One connection in one transaction, and what differs between databases.

    Errors are the driver's, but for those of `duplicate_error`.
    """

    dialect: Dialect
    duplicate_error: type[Exception]
    """What the driver raises when a unique key is there already."""

    may_share_database: bool
    """Tables of other programs beside ours are no reason to refuse."""

    def rows(self, statement: Statement, parameters: Parameters = ()) -> list[Any]:
        """Run a statement; return all rows."""
        ...

    def change(self, statement: Statement, parameters: Parameters = ()) -> int:
        """Run a statement that writes; return how many rows it touched."""
        ...

    def change_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run a statement that writes once for each set of parameters."""
        ...

    def select(self, clause: ClauseElement) -> list[Any]:
        """Run a query that is not worth keeping; return all rows."""
        ...

    def run(self, sql: str) -> object:
        """Run SQL text, such as a definition."""
        ...

    def tables(self) -> set[str]:
        """Return the names of all tables."""
        ...

    def array(self, values: Sequence[Any]) -> Any:
        """Return a list as the parameter of `in_list`."""
        ...

    def savepoint(self) -> AbstractContextManager[object]:
        """Undo the block's statements if it raises, and keep the transaction alive."""
        ...

    def lock(self, name: str, *, shared: bool = False) -> None:
        """Until the transaction ends, keep others from taking the same lock, or sharing it."""
        ...


def first(executor: Executor, statement: Statement, parameters: Parameters = ()) -> Any:
    """Return the first column of the first row, or None."""
    rows = executor.rows(statement, parameters)
    return rows[0][0] if rows else None


class Test(ColumnElement[bool]):
    """A condition of our own making, rendered in parentheses.

    SQLAlchemy would compare it with 1 where a database has no booleans, and then no index helps.
    """

    inherit_cache = False
    type = Boolean()

    def self_group(self, against: Any = None) -> Any:
        """Return the condition itself, whatever it stands in."""
        del against
        return self


class _InList(Test):
    def __init__(self, column: ColumnElement[Any], values: ColumnElement[Any]) -> None:
        self.column = column
        self.values = values


@compiles(_InList, "sqlite")
def _in_json(element: _InList, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = compiler.process(element.column, **kw), compiler.process(element.values, **kw)
    return f"({column} IN (SELECT value FROM json_each({values})))"


@compiles(_InList, "postgresql")
def _in_array(element: _InList, compiler: SQLCompiler, **kw: Any) -> str:
    column, values = compiler.process(element.column, **kw), compiler.process(element.values, **kw)
    return f"({column} = ANY({values}))"


class _ListType(postgresql.ARRAY[Any]):
    """A list: an array in PostgreSQL, JSON text in SQLite."""


def in_list(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Return whether a column's value is in a list that is one parameter; see `Executor.array`."""
    item = Text() if isinstance(column.type, Text) else BigInteger()
    kind = _ListType(item).with_variant(Text(), "sqlite")
    return _InList(column, bindparam(name, type_=kind))


class Bare(ColumnElement[Any]):
    """A column that SQLite's planner shall not look up in an index."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column
        self.type = column.type


@compiles(Bare)
def _bare(element: Bare, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.column, **kw)


@compiles(Bare, "sqlite")
def _bare_sqlite(element: Bare, compiler: SQLCompiler, **kw: Any) -> str:
    return f"+{compiler.process(element.column, **kw)}"


def _insert_for(dialect: Dialect, table: Table) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if dialect.name == "postgresql" else sqlite.insert(table)


def insert_new(table: Table, *columns: str) -> Statement:
    """Return a statement that inserts rows and passes over those that are there."""

    def clause(dialect: Dialect) -> ClauseElement:
        insert = _insert_for(dialect, table).values({name: bindparam(name) for name in columns})
        return insert.on_conflict_do_nothing()

    return Statement(clause, *columns)


def upsert(
    table: Table, columns: Sequence[str], keys: Sequence[str], *, add: Sequence[str] = ()
) -> Statement:
    """Return a statement that inserts rows or replaces what their columns hold.

    Args:
        table: The table.
        columns: All columns that are given.
        keys: Those that make out whether a row is there.
        add: Columns that are added to what is there instead of replacing it.
    """

    def clause(dialect: Dialect) -> ClauseElement:
        insert = _insert_for(dialect, table).values({name: bindparam(name) for name in columns})
        changes = {
            name: table.c[name] + insert.excluded[name] if name in add else insert.excluded[name]
            for name in columns
            if name not in keys
        }
        return insert.on_conflict_do_update(index_elements=list(keys), set_=changes)

    return Statement(clause, *columns)
