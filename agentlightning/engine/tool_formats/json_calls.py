"""Calls written as JSON objects with a name and arguments, side by side or in a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from agentlightning.engine.tool_formats.calls import ParsedText, ToolCall

__all__ = ["json_calls", "load_json", "object_at", "only_calls", "opened_call"]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


def load_json(text: str) -> Any:
    """Return the value of a JSON text, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def object_at(text: str) -> int:
    """Return 0 where a text is JSON or may become so, else its length."""
    return 0 if text.lstrip()[:1] in {"{", "["} or not text.strip() else len(text)


def only_calls(before: str, body: str) -> ParsedText | None:
    """Return a body of calls and nothing else, behind a content; None for any other body."""
    found = list(json_calls(body))
    if not found or None in found:
        return None
    return ParsedText(before, tuple(call for call in found if call))


def opened_call(tool: str | None, key: str = "arguments") -> str:
    """Return the beginning of a call, up to its arguments or, without a tool, to its name."""
    if tool is None:
        return '{"name": "'
    return f'{{"name": {json.dumps(tool, ensure_ascii=False)}, "{key}":'


def json_calls(text: str) -> Iterator[ToolCall | None]:
    """Yield the calls of JSON objects, side by side or in a list; None for anything else."""
    text = text.strip()
    listed = text.startswith("[") and text.endswith("]")
    at, end = (1, len(text) - 1) if listed else (0, len(text))
    while (at := _skip(text, at, "," if listed else ";")) < end:
        try:
            value, stop = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield None
            return
        yield _call(value, text[at:stop])
        at = stop


def _skip(text: str, at: int, separator: str) -> int:
    match = _SPACE.match(text, at)
    at = match.end() if match else at
    while text[at : at + 1] == separator:
        match = _SPACE.match(text, at + 1)
        at = match.end() if match else at + 1
    return at


def _call(value: Any, source: str) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name: Any = value.get("name")
    key = "arguments" if "arguments" in value else "parameters"
    arguments: Any = value.get(key, {})
    if isinstance(arguments, str):
        arguments = load_json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, _exact(source, key, arguments))


def _exact(source: str, key: str, arguments: dict[str, Any]) -> str:
    """Return the arguments as they stand in `source`, so that a replay renders the same tokens."""
    for match in re.finditer(rf'"{key}"\s*:\s*', source):
        try:
            value, stop = _DECODER.raw_decode(source, match.end())
        except ValueError:
            continue
        if value == arguments:
            return source[match.end() : stop]
    return json.dumps(arguments, ensure_ascii=False)
