"""Span attributes: nested values to flat dotted keys and back, and making values storable.

OpenTelemetry attributes are strings, booleans, numbers, or lists of one of those. Everything here
is pure and needs no OpenTelemetry library.
"""

import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agentlightning.errors import ConfigurationError
from agentlightning.types.tracer import Attributes, AttributeValue

__all__ = [
    "check_attributes_sanity",
    "filter_and_unflatten_attributes",
    "filter_attributes",
    "flatten_attributes",
    "format_exception_attributes",
    "full_qualified_name",
    "sanitize_attribute_value",
    "sanitize_attributes",
    "sanitize_list_attribute_sanity",
    "unflatten_attributes",
]

_PRIMITIVES = (str, bool, int, float)


def full_qualified_name(obj: type) -> str:
    """Return a class's name with its module, without the module for builtins.

    Example:
        >>> full_qualified_name(dict)
        'dict'
    """
    if obj.__module__ in {"builtins", "__main__"}:
        return obj.__qualname__
    return f"{obj.__module__}.{obj.__qualname__}"


def _is_homogeneous(values: Sequence[Any]) -> bool:
    """Return whether all values are of one primitive type, as OpenTelemetry asks of a list."""
    kinds = {type(value) for value in values}
    return len(kinds) == 1 and issubclass(kinds.pop(), _PRIMITIVES)


def flatten_attributes(nested: Any, *, expand_leaf_lists: bool = False) -> dict[str, Any]:
    """Spell nested dicts and lists as one dict with dotted keys.

    A list of primitives of one type stays a value, unless `expand_leaf_lists`; other lists are
    expanded by index. Empty dicts and lists vanish; tuples are values.

    Raises:
        ConfigurationError: A key is not a string, or the outermost value is neither dict nor list.

    Example:
        >>> flatten_attributes({"a": {"b": 1}, "c": [{"d": 2}], "e": [1, 2]})
        {'a.b': 1, 'c.0.d': 2, 'e': [1, 2]}
    """
    if not isinstance(nested, dict | list):
        raise ConfigurationError(
            f"Only dicts and lists can be flattened, not {type(nested).__name__}."
        )
    flat: dict[str, Any] = {}
    _flatten_into(flat, "", cast("Any", nested), expand_leaf_lists)
    return flat


def _flatten_into(flat: dict[str, Any], prefix: str, value: Any, expand_leaf_lists: bool) -> None:
    if isinstance(value, dict):
        for key, inner in cast("dict[Any, Any]", value).items():
            if not isinstance(key, str):
                raise ConfigurationError(
                    f"Attribute keys are strings; {key!r} under {prefix!r} is not."
                )
            _flatten_into(flat, f"{prefix}.{key}" if prefix else key, inner, expand_leaf_lists)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        if prefix and items and not expand_leaf_lists and _is_homogeneous(items):
            flat[prefix] = items
            return
        for index, inner in enumerate(items):
            key = f"{prefix}.{index}" if prefix else str(index)
            _flatten_into(flat, key, inner, expand_leaf_lists)
    else:
        flat[prefix] = value


def unflatten_attributes(flat: Mapping[str, Any]) -> dict[str, Any] | list[Any]:
    """Rebuild what `flatten_attributes` spelled out; keys 0 to n-1 become a list.

    Where one key is both a value and a prefix of others, the longer keys win.

    Example:
        >>> unflatten_attributes({"a.b": 1, "c.0.d": 2, "e": [1, 2]})
        {'a': {'b': 1}, 'c': [{'d': 2}], 'e': [1, 2]}
    """
    root: dict[str, Any] = {}
    branches: set[int] = {id(root)}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = root
        for part in path:
            child = node.get(part)
            if id(child) not in branches:
                child = {}
                branches.add(id(child))
                node[part] = child
            node = cast("dict[str, Any]", child)
        if id(node.get(last)) not in branches:
            node[last] = value
    return _lists_from_digits(root, branches)


def _lists_from_digits(node: dict[str, Any], branches: set[int]) -> dict[str, Any] | list[Any]:
    for key, child in node.items():
        if id(child) in branches:
            node[key] = _lists_from_digits(child, branches)
    if node and set(node) == {str(index) for index in range(len(node))}:
        return [node[str(index)] for index in range(len(node))]
    return node


def filter_attributes(attributes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose key is `prefix` or starts with `prefix` and a dot."""
    dotted = prefix + "."
    return {
        key: value for key, value in attributes.items() if key == prefix or key.startswith(dotted)
    }


def filter_and_unflatten_attributes(
    attributes: Mapping[str, Any], prefix: str
) -> dict[str, Any] | list[Any]:
    """Return what is nested under `prefix`, as nested dicts and lists.

    Raises:
        ConfigurationError: `prefix` is itself a key, so that there is a value and not a tree.
    """
    if prefix in attributes:
        raise ConfigurationError(
            f"Attribute {prefix!r} holds a value; there is nothing nested under it."
        )
    dotted = prefix + "."
    return unflatten_attributes(
        {key[len(dotted) :]: value for key, value in attributes.items() if key.startswith(dotted)}
    )


def sanitize_attribute_value(value: Any, force: bool = True) -> AttributeValue:
    """Return a value that OpenTelemetry stores: primitives and lists of one primitive type as
    they are, anything else as JSON.

    Args:
        value: Any value; None becomes `"null"`.
        force: Whether what JSON cannot express is kept as its `str()`.

    Raises:
        ConfigurationError: The value is not expressible as JSON and `force` is False.
    """
    if isinstance(value, _PRIMITIVES):
        return value
    if isinstance(value, list | tuple):
        items = list(cast("Sequence[Any]", value))
        if _is_homogeneous(items):
            return items
    try:
        return json.dumps(value, default=str if force else None)
    except (TypeError, ValueError, RecursionError) as error:
        if force:
            return repr(value)
        raise ConfigurationError(
            f"A value of type {type(value).__name__} cannot be an attribute: it is not JSON."
        ) from error


def sanitize_attributes(attributes: Mapping[str, Any], force: bool = True) -> Attributes:
    """Apply `sanitize_attribute_value` to every value."""
    return {key: sanitize_attribute_value(value, force) for key, value in attributes.items()}


def sanitize_list_attribute_sanity(values: Sequence[Any]) -> AttributeValue:
    """Return a list that OpenTelemetry stores, unchanged.

    Raises:
        ConfigurationError: The items are not primitives of one type.
    """
    items = list(values)
    if items and not _is_homogeneous(items):
        kinds = sorted({type(item).__name__ for item in items})
        raise ConfigurationError(
            f"A list attribute holds primitives of one type; this one holds {', '.join(kinds)}."
        )
    return cast("AttributeValue", items)


def check_attributes_sanity(attributes: Mapping[Any, Any]) -> None:
    """Refuse attributes that OpenTelemetry would drop or change.

    Raises:
        ConfigurationError: A key is not a string, or a value is neither primitive nor such a list.
    """
    for key, value in attributes.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"Attribute keys are strings; {key!r} is not.")
        if isinstance(value, list | tuple):
            sanitize_list_attribute_sanity(cast("Sequence[Any]", value))
        elif not isinstance(value, _PRIMITIVES):
            raise ConfigurationError(
                f"Attribute {key!r} is of type {type(value).__name__}: use a string, boolean, "
                "number, or a list of one of those."
            )


def format_exception_attributes(exception: BaseException) -> Attributes:
    """Return the OpenTelemetry attributes of an exception, with its stack."""
    return {
        "exception.type": full_qualified_name(type(exception)),
        "exception.message": str(exception),
        "exception.stacktrace": "".join(traceback.format_exception(exception)),
        "exception.escaped": True,
    }
