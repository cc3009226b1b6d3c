"""Filters and orderings as SQL, where columns allow; `filtering` defines what they mean."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import ColumnElement, String, Table, and_, func, or_, true
from sqlalchemy.sql.elements import ColumnClause, UnaryExpression

from agentlightning.store.collections.filtering import conditions, is_any, musts, none_rank
from agentlightning.types import FilterOptions, SortOptions

_MOST_PARAMETERS: Final = 30_000
"""Below SQLite's limit of 32,766 parameters in one statement."""

Order = UnaryExpression[Any] | ColumnElement[Any]


def _within(column: ColumnClause[Any], operand: Any) -> ColumnElement[bool] | None:
    values = list(operand)
    present = [value for value in values if value is not None]
    if len(present) > _MOST_PARAMETERS or not _comparable(column, present):
        return None
    test = column.in_(present)
    return or_(test, column.is_(None)) if len(present) < len(values) else test


def _comparable(column: ColumnClause[Any], values: list[Any]) -> bool:
    """Return whether SQL compares these values with the column as Python does."""
    plain = str if isinstance(column.type, String) else (int, float)
    return all(isinstance(value, plain) for value in values)


def _condition(table: Table, field: str, operator: str, operand: Any) -> ColumnElement[bool] | None:
    column = table.c.get(field)
    if column is None or field in {"ordinal", "payload"}:
        return None
    if operator == "within":
        return _within(column, operand)
    if not _comparable(column, [operand]):
        return None
    if operator == "exact":
        return column == operand
    return func.instr(column, operand) > 0 if isinstance(column.type, String) else None


def sql_filter(table: Table, options: FilterOptions | None) -> ColumnElement[bool] | None:
    """Return a filter as a SQL expression, or None where only Python can evaluate it."""
    if not options:
        return true()
    required: list[ColumnElement[bool]] = []
    for must in musts(options):
        test = sql_filter(table, must)
        if test is None:
            return None
        required.append(test)
    own: list[ColumnElement[bool]] = []
    for field, operator, operand in conditions(options):
        test = _condition(table, field, operator, operand)
        if test is None:
            return None
        own.append(test)
    if own and is_any(options):
        return and_(*required, or_(*own))
    return and_(true(), *required, *own)


def sql_order(table: Table, model: type[BaseModel], sort: SortOptions | None) -> list[Order] | None:
    """Return an ordering as SQL terms, or None where only Python can evaluate it."""
    if sort is None:
        return [table.c.ordinal]
    rank = none_rank(model, sort["name"])
    column = table.c.get(sort["name"])
    if column is None:
        return None
    # Only a bare column can be read off an index.
    term = func.coalesce(column, rank) if column.nullable else column
    return [term.desc() if sort["order"] == "desc" else term, table.c.ordinal]
