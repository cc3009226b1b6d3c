"""Filters and orderings as MongoDB's, where it means the same; `filtering` defines the meaning."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from agentlightning.store.collections.filtering import conditions, is_any, musts, none_rank
from agentlightning.store.collections.mongo.layout import Document, RecordLayout
from agentlightning.types import FilterOptions, SortOptions

_MOST_VALUES: Final = 50_000
"""Of one list in a query, far below the limit of 16 MB."""
_INT64: Final = 2**63
RANK: Final = "_rank"
"""What a nullable field is sorted by, while a query runs."""


def _comparable(layout: RecordLayout[Any], field: str, value: Any) -> bool:
    """Return whether MongoDB compares this value with the field as Python does."""
    if layout.is_text(field):
        return isinstance(value, str)
    if isinstance(value, int):
        return -_INT64 <= value < _INT64
    return isinstance(value, float) and not math.isnan(value)


def _operand(value: Any) -> Any:
    # For Python True is 1; for MongoDB it is not.
    return int(value) if isinstance(value, bool) else value


def _condition(
    layout: RecordLayout[Any], field: str, operator: str, operand: Any
) -> Document | None:
    if field not in layout.fields or operator not in {"exact", "within", "contains"}:
        return None
    if operator == "contains":
        if not layout.is_text(field) or not isinstance(operand, str) or "\0" in operand:
            return None
        return {field: {"$regex": re.escape(operand)}}
    values = list(operand) if operator == "within" else [operand]
    if len(values) > _MOST_VALUES or not all(
        value is None or _comparable(layout, field, value) for value in values
    ):
        return None
    if operator == "exact":
        return {field: {"$eq": _operand(operand)}}
    return {field: {"$in": [_operand(value) for value in values]}}


def mongo_filter(
    layout: RecordLayout[Any], options: FilterOptions | None
) -> tuple[list[Document], bool]:
    """Return a filter as conditions that must all hold, and whether they say all of it.

    Where they do not, they find more than what matches, and Python has to look again.
    """
    if not options:
        return [], True
    required: list[Document] = []
    whole = True
    for must in musts(options):
        found, complete = mongo_filter(layout, must)
        required.extend(found)
        whole &= complete
    own = [_condition(layout, *condition) for condition in conditions(options)]
    if own and is_any(options):
        known = [test for test in own if test is not None]
        if len(known) < len(own):
            return required, False
        return [*required, {"$or": known}], whole
    required.extend(test for test in own if test is not None)
    return required, whole and None not in own


def all_of(required: list[Document]) -> Document:
    """Return conditions as one, flat where they are about different fields."""
    flat: Document = {}
    for condition in required:
        if flat.keys() & condition.keys():
            return {"$and": required}
        flat.update(condition)
    return flat


def mongo_order(
    layout: RecordLayout[Any], sort: SortOptions | None
) -> tuple[list[tuple[str, int]], Document | None] | None:
    """Return an ordering, and the field that a query must add for it; None where only Python can
    evaluate it.
    """
    if sort is None:
        return [("o", 1)], None
    field = sort["name"]
    rank = none_rank(layout.model, field)
    if field not in layout.fields:
        return None
    direction = -1 if sort["order"] == "desc" else 1
    if not layout.is_nullable(field):
        return [(field, direction), ("o", 1)], None
    # Nulls come first by themselves, but rank with certain values here.
    return [(RANK, direction), ("o", 1)], {RANK: {"$ifNull": [f"${field}", rank]}}
