"""Filters and orderings of records, evaluated in Python: the meaning that backends must match."""

from __future__ import annotations

import types
from collections.abc import Callable, Container, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from agentlightning.errors import InvalidRequestError
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

T = TypeVar("T")
Predicate = Callable[[Any], bool]

OPERATORS = ("exact", "within", "contains", "has")
"""`has` asks that a field with a dict holds all of the operand's pairs, each value equal."""

_RESERVED = frozenset({"_aggregate", "_must"})


def conditions(options: FilterOptions) -> list[tuple[str, str, Any]]:
    """Return a filter's own conditions as (field, operator, operand), without its `_must`.

    Raises:
        InvalidRequestError: An operator is unknown.
    """
    found: list[tuple[str, str, Any]] = []
    for field, operations in options.items():
        if field in _RESERVED:
            continue
        for operator, operand in operations.items():
            if operator not in OPERATORS:
                raise InvalidRequestError(
                    f"Unknown filter operator {operator!r} on {field!r}; "
                    f"use one of {', '.join(OPERATORS)}."
                )
            if operand is not None:
                found.append((field, operator, operand))
    return found


def musts(options: FilterOptions) -> list[FilterOptions]:
    """Return the filters that always apply, whatever `_aggregate` says."""
    must = options.get("_must")
    if must is None:
        return []
    return [must] if isinstance(must, Mapping) else list(must)


def is_any(options: FilterOptions) -> bool:
    """Return whether a filter's own conditions are OR-ed.

    Raises:
        InvalidRequestError: `_aggregate` is neither "and" nor "or".
    """
    aggregate = options.get("_aggregate", "and")
    if aggregate not in {"and", "or"}:
        raise InvalidRequestError(f"_aggregate must be 'and' or 'or', not {aggregate!r}.")
    return aggregate == "or"


def has_pairs(held: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Return whether a mapping holds all of the wanted pairs; nothing wanted is always there."""
    if not wanted:
        return True
    return held is not None and all(key in held and held[key] == wanted[key] for key in wanted)


def _test(field: str, operator: str, operand: Any) -> Predicate:
    if operator == "exact":
        return lambda item: getattr(item, field, None) == operand
    if operator == "within":
        try:
            pool: Container[Any] = frozenset(operand)
        except TypeError:
            pool = list(operand)
        return lambda item: getattr(item, field, None) in pool
    if operator == "has":
        return lambda item: has_pairs(getattr(item, field, None), operand)

    def contains(item: Any) -> bool:
        value = getattr(item, field, None)
        return value is not None and operand in value

    return contains


def compile_filter(options: FilterOptions | None) -> Predicate | None:
    """Return the test that a filter stands for, or None when everything matches.

    Example:
        >>> compile_filter({"_aggregate": "or"}) is None
        True
    """
    if not options:
        return None
    own = [_test(*condition) for condition in conditions(options)]
    required = [test for must in musts(options) if (test := compile_filter(must)) is not None]
    if own and is_any(options):
        tests = own
        required.append(lambda item: any(test(item) for test in tests))
    else:
        required.extend(own)
    if len(required) <= 1:
        return required[0] if required else None
    return lambda item: all(test(item) for test in required)


def _scalar_types(annotation: Any) -> set[type] | None:
    """Return the plain types of a field, None left out; None when it is not a plain field."""
    origin = get_origin(annotation)
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin in {Union, types.UnionType}:
        parts = [_scalar_types(part) for part in get_args(annotation) if part is not type(None)]
        return set[type]().union(*(part or set() for part in parts)) if all(parts) else None
    return {annotation} if annotation in {str, int, float, bool} else None


@lru_cache(maxsize=256)
def none_rank(model: type[BaseModel], field: str) -> Any:
    """Return what None sorts as in a field: infinity in times, "" in strings, 0 in numbers.

    Raises:
        InvalidRequestError: The model has no such field, or it has no order.
    """
    info = model.model_fields.get(field)
    plain = _scalar_types(info.annotation) if info is not None else None
    if not plain:
        sortable = [name for name, i in model.model_fields.items() if _scalar_types(i.annotation)]
        raise InvalidRequestError(
            f"{model.__name__} cannot be sorted by {field!r}; use one of {', '.join(sortable)}."
        )
    if field.endswith("_time"):
        return float("inf")
    return "" if str in plain else 0


def sort_records(records: list[T], model: type[BaseModel], sort: SortOptions | None) -> list[T]:
    """Return the records in the order asked for; equal ones keep their order.

    Args:
        records: Instances of `model`, or of something that has its attributes.
        model: Says which fields there are, and what None sorts as in each.
        sort: The order; None leaves them as they are.
    """
    if sort is None:
        return records
    field = sort["name"]
    rank = none_rank(model, field)
    is_reversed = sort["order"] == "desc"
    value_of = attrgetter(field)
    if _is_always_there(model, field):
        return sorted(records, key=value_of, reverse=is_reversed)

    def key(record: T) -> Any:
        value = value_of(record)
        return rank if value is None else value

    return sorted(records, key=key, reverse=is_reversed)


def _is_always_there(model: type[BaseModel], field: str) -> bool:
    """Return whether a field is never None, so that it can be compared as it is."""
    annotation: Any = model.model_fields[field].annotation
    return annotation in {str, int, float, bool}


def page(records: Sequence[T], limit: int, offset: int) -> PaginatedResult[T]:
    """Return one page of all matches; a limit of -1 means the rest.

    Raises:
        InvalidRequestError: The limit is below -1 or the offset below 0.
    """
    check_page(limit, offset)
    end = None if limit == -1 else offset + limit
    return PaginatedResult[Any].model_construct(
        items=list(records[offset:end]), limit=limit, offset=offset, total=len(records)
    )


def check_page(limit: int, offset: int) -> None:
    """Refuse a limit below -1 or an offset below 0."""
    if limit < -1 or offset < 0:
        raise InvalidRequestError(
            f"limit {limit} and offset {offset} do not make a page; "
            "use a limit of -1 (all) or more and an offset of 0 or more."
        )
