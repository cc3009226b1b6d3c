"""Reading values out of span attributes: nested, typed, and total.

What is absent, or has another shape than asked for, comes back empty; nothing here raises.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agentlightning.utils.attributes import filter_and_unflatten_attributes

__all__ = [
    "as_items",
    "as_mapping",
    "first_ids",
    "first_number",
    "first_text",
    "integer_list",
    "literal",
    "nested",
    "parsed",
]


def parsed(value: Any) -> Any:
    """Return what a JSON text spells; anything else, and other texts, as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def literal(value: Any) -> Any:
    """Return what a Python literal spells, as LiteLLM writes lists; None for other texts."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def nested(attributes: Mapping[str, Any], prefix: str) -> Any:
    """Return what is under `prefix`: nested, or the value itself, from JSON if it is that."""
    if prefix not in attributes:
        return filter_and_unflatten_attributes(attributes, prefix)
    return parsed(attributes[prefix])


def integer_list(value: Any) -> list[int]:
    """Return a list of integers given as sequence or as JSON; anything else gives an empty one."""
    value = parsed(value)
    if isinstance(value, list | tuple):
        items = list(cast("Sequence[Any]", value))
        if all(type(item) is int for item in items):
            return items
    return []


def first_ids(attributes: Mapping[str, Any], keys: Sequence[str]) -> list[int]:
    """Return the first list of token ids that is not empty, among these keys."""
    found = (integer_list(attributes.get(key)) for key in keys)
    return next((ids for ids in found if ids), [])


def first_text(attributes: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Return the first text that is not empty, among these keys."""
    values = (attributes.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value), None)


def first_number(attributes: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """Return the first integer among these keys."""
    values = (attributes.get(key) for key in keys)
    return next((value for value in values if type(value) is int), None)


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a dict as it is, an empty one for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_items(value: Any) -> list[Any]:
    """Return a list as it is, an empty one for anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []
