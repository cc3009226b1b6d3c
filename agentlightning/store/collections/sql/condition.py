"""Filters and orderings as SQL, where columns allow; `filtering` defines what they mean."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    String,
    Table,
    and_,
    bindparam,
    false,
    func,
    intersect,
    nulls_first,
    nulls_last,
    or_,
    select,
    true,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import UnaryExpression

from agentlightning.store.collections.filtering import conditions, is_any, musts, none_rank
from agentlightning.store.collections.sql.schema import rollout_tags, rollouts
from agentlightning.store.collections.sql.statement import Bare, Test
from agentlightning.store.collections.sql.tags import wanted_tags
from agentlightning.store.collections.sql.text import is_clean
from agentlightning.types import FilterOptions, SortOptions

_MOST_PARAMETERS: Final = 30_000
"""Below the limit of 32,766 parameters in one statement of SQLite, and PostgreSQL's 32,767."""
_LARGEST: Final = 2**63

Order = UnaryExpression[Any] | ColumnElement[Any]
Condition = ColumnElement[bool]


class _Contains(Test):
    """Whether a column's text contains another, letter by letter."""

    def __init__(self, column: ColumnElement[Any], part: str) -> None:
        self.column = column
        self.part = bindparam(None, part, type_=column.type)
        pattern = re.sub(r"([\\%_])", r"\\\1", part)
        self.pattern = bindparam(None, f"%{pattern}%", type_=column.type)


@compiles(_Contains)
def _contains(element: _Contains, compiler: SQLCompiler, **kw: Any) -> str:
    # An index of three-letter parts knows this operator, and no function.
    column, pattern = (compiler.process(e, **kw) for e in (element.column, element.pattern))
    return f"({column} LIKE {pattern})"


@compiles(_Contains, "sqlite")
def _contains_sqlite(element: _Contains, compiler: SQLCompiler, **kw: Any) -> str:
    column, part = compiler.process(element.column, **kw), compiler.process(element.part, **kw)
    return f"(instr({column}, {part}) > 0)"


class _Tagged(Test):
    """Whether a rollout is among those with certain tags, all of which are looked up first.

    PostgreSQL's planner knows nothing of how tags lie along an order, and would rather walk along
    it until enough rollouts with the tags have turned up, which may be at its end.
    """

    def __init__(self, ordinal: ColumnElement[Any], ordinals: CompoundSelect[Any]) -> None:
        self.ordinal = ordinal
        self.ordinals = ordinals.scalar_subquery()


@compiles(_Tagged)
def _tagged(element: _Tagged, compiler: SQLCompiler, **kw: Any) -> str:
    ordinal, ordinals = (compiler.process(e, **kw) for e in (element.ordinal, element.ordinals))
    return f"({ordinal} = ANY (ARRAY{ordinals}))"


@compiles(_Tagged, "sqlite")
def _tagged_sqlite(element: _Tagged, compiler: SQLCompiler, **kw: Any) -> str:
    ordinal, ordinals = (compiler.process(e, **kw) for e in (element.ordinal, element.ordinals))
    return f"({ordinal} IN {ordinals})"


class Filter:
    """One filter of one table on its way to SQL.

    Args:
        table: The table.
        common: Fields that so many rows agree on that an index on them would not help.
    """

    def __init__(self, table: Table, common: Collection[str] = ()) -> None:
        self._table = table
        self._common = common

    def sql(self, options: FilterOptions | None) -> Condition | None:
        """Return a filter as a SQL expression, or None where only Python can evaluate it."""
        if not options:
            return true()
        required: list[Condition] = []
        for must in musts(options):
            test = self.sql(must)
            if test is None:
                return None
            required.append(test)
        own: list[Condition] = []
        for field, operator, operand in conditions(options):
            test = self._condition(field, operator, operand, alone=not is_any(options))
            if test is None:
                return None
            own.append(test)
        if own and is_any(options):
            return and_(*required, or_(*own))
        return and_(true(), *required, *own)

    def _condition(
        self, field: str, operator: str, operand: Any, *, alone: bool
    ) -> Condition | None:
        """Return one condition; `alone` says that nothing can match without it."""
        if operator == "has":
            return self._has(field, operand, look_up=alone and field not in self._common)
        if field not in self._table.info["fields"]:
            return None
        plain = self._table.c[field]
        column: ColumnElement[Any] = Bare(plain) if field in self._common else plain
        if operator == "within":
            return _within(column, operand)
        if not _comparable(column, [operand]):
            return None
        if operator == "exact":
            return column == operand
        return _Contains(plain, operand) if isinstance(plain.type, String) else None

    def _has(self, field: str, pairs: Any, *, look_up: bool) -> Condition | None:
        if self._table is not rollouts or field != "metadata":
            return None
        wanted = wanted_tags(pairs)
        if wanted is None:
            return None
        ordinal, tags = self._table.c.ordinal, rollout_tags.c
        lists = [
            select(tags.ordinal).where(tags.key == key, tags.value == value)
            for key, value in wanted
        ]
        if look_up and lists:
            return _Tagged(ordinal, intersect(*lists))
        return and_(true(), *(ordinal.in_(ordinals) for ordinals in lists))


def _within(column: ColumnElement[Any], operand: Any) -> Condition | None:
    values = list(operand)
    if not values:
        # SQLAlchemy's empty list would be looked for in every row.
        return false()
    present = [value for value in values if value is not None]
    if len(present) > _MOST_PARAMETERS or not _comparable(column, present):
        return None
    test = column.in_(present)
    return or_(test, column.is_(None)) if len(present) < len(values) else test


def _comparable(column: ColumnElement[Any], values: list[Any]) -> bool:
    """Return whether SQL compares these values with the column as Python does."""
    if isinstance(column.type, String):
        return all(isinstance(value, str) and is_clean(value) for value in values)
    return all(isinstance(value, int | float) and abs(value) < _LARGEST for value in values)


def sql_filter(table: Table, options: FilterOptions | None) -> Condition | None:
    """Return a filter as a SQL expression, or None where only Python can evaluate it."""
    return Filter(table).sql(options)


def sql_order(table: Table, model: type[BaseModel], sort: SortOptions | None) -> list[Order] | None:
    """Return an ordering as SQL terms, or None where only Python can evaluate it."""
    if sort is None:
        return [table.c.ordinal]
    name, down = sort["name"], sort["order"] == "desc"
    rank = none_rank(model, name)
    if name not in table.info["fields"]:
        return None
    column = table.c[name]
    # Only a bare column can be read off an index, so a missing time is not replaced by infinity.
    if rank == float("inf"):
        term = nulls_first(column.desc()) if down else nulls_last(column.asc())
    elif column.nullable:
        term = func.coalesce(column, rank)
        term = term.desc() if down else term
    else:
        term = column.desc() if down else column
    return [term, table.c.ordinal]
