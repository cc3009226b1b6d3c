"""Arguments that a model wrote as text between tags, made JSON by what the tool's schema says.

A value of type string is the text itself. Any other is read as JSON, or as Python writes `True`,
`False` and `None`; what does not read as any type that the schema allows stays a string, so
nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agentlightning.engine.tool_formats.calls import Tools
from agentlightning.engine.tool_formats.json_calls import load_json

__all__ = ["typed_arguments"]

_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
_TYPES: Mapping[str, tuple[type[Any], ...]] = {
    "object": (dict,),
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def typed_arguments(tool: str, values: Iterable[tuple[str, str]], tools: Tools) -> str:
    """Return arguments as a JSON object.

    Args:
        tool: Name of the tool that is called.
        values: Names and texts; of several with one name the last counts.
        tools: What was offered, with JSON schemas.
    """
    schemas = _schemas(tool, tools)
    members = {name: _value(text, schemas.get(name)) for name, text in values}
    return "{" + ", ".join(f"{_quoted(name)}: {it}" for name, it in members.items()) + "}"


def _schemas(tool: str, tools: Tools) -> Mapping[str, Any]:
    """Return the schema of each parameter of a tool."""
    for each in tools:
        function: Any = each.get("function")
        if isinstance(function, Mapping) and function.get("name") == tool:
            parameters: Any = function.get("parameters")
            properties: Any = parameters.get("properties") if _is_object(parameters) else None
            return properties if _is_object(properties) else {}
    return {}


def _value(text: str, schema: Any) -> str:
    """Return a value as JSON."""
    types = _types(schema)
    if types == {"string"}:
        return _quoted(text)
    source = _WORDS.get(text.strip().lower(), text.strip())
    if source == "null":
        return source if not types or "null" in types else _quoted(text)
    value = load_json(source)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or isinstance(value, str) or (is_number and value - value != 0):
        return _quoted(text)
    return source if not types or any(_fits(value, each) for each in types) else _quoted(text)


def _types(schema: Any) -> set[str]:
    """Return the names of the types that a schema allows; empty where it does not say."""
    if not _is_object(schema):
        return set()
    if isinstance(schema.get("enum"), list) and "type" not in schema:
        return {"string"} if all(isinstance(it, str) for it in schema["enum"]) else set()
    told: Any = schema.get("type")
    if isinstance(told, str):
        return {told}
    if isinstance(told, list):
        return {each for each in told if isinstance(each, str)}
    choices: Any = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(choices, list):
        return set()
    each_allows = [_types(choice) for choice in choices]
    return set[str]().union(*each_allows) if all(each_allows) else set()


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, ()))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
