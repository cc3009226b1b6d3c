"""Tool calls in a model's text: one small parser per format, chosen by the chat template.

Pure functions of text. A text that does not parse completely holds no calls: it stays content,
so nothing that the model wrote is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from agentlightning.engine.text import held_suffix

__all__ = ["TOOL_FORMATS", "ParsedText", "ToolCall", "ToolFilter", "ToolFormat", "detect_format"]

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model wrote it."""

    name: str
    arguments: str
    """A JSON object, character for character as in the model's text."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A completed text, taken apart."""

    content: str
    """What stands before and after the calls."""
    calls: tuple[ToolCall, ...] = ()


class ToolFormat(Protocol):
    """A way of writing tool calls."""

    name: str
    keep_special: bool
    """Whether the format's markers are special tokens, which decoding must then keep."""

    def matches(self, template: str) -> bool:
        """Tell whether a chat template teaches this format."""
        ...

    def begins(self, text: str) -> int:
        """Return where a call begins or may begin; the length of `text` if nowhere."""
        ...

    def parse(self, text: str) -> ParsedText | None:
        """Take a completed text apart; None when its calls are malformed or absent."""
        ...


class _Hermes:
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, of Hermes and Qwen."""

    name = "hermes"
    keep_special = False
    _open = "<tool_call>"
    _close = "</tool_call>"

    def matches(self, template: str) -> bool:
        return self._open in template

    def begins(self, text: str) -> int:
        return _marker_at(text, self._open)

    def parse(self, text: str) -> ParsedText | None:
        before, *parts = text.split(self._open)
        calls: list[ToolCall] = []
        after = ""
        for part in parts:
            body, close, rest = part.partition(self._close)
            found = list(_json_calls(body))
            if not close or not found or None in found:
                return None
            calls.extend(call for call in found if call)
            after += rest
        if not calls:
            return None
        return ParsedText(before + (after if after.strip() else ""), tuple(calls))


class _Mistral:
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`."""

    name = "mistral"
    keep_special = True
    _open = "[TOOL_CALLS]"

    def matches(self, template: str) -> bool:
        return self._open in template

    def begins(self, text: str) -> int:
        return _marker_at(text, self._open)

    def parse(self, text: str) -> ParsedText | None:
        before, marker, body = text.partition(self._open)
        if not marker:
            return None
        return _only_calls(before, body)


class _Llama:
    """`{"name": ..., "parameters": {...}}` as the whole text, perhaps after `<|python_tag|>`."""

    name = "llama"
    keep_special = True
    _tag = "<|python_tag|>"

    def matches(self, template: str) -> bool:
        return self._tag in template or ("ipython" in template and '"parameters"' in template)

    def begins(self, text: str) -> int:
        return min(_object_at(text), _marker_at(text, self._tag))

    def parse(self, text: str) -> ParsedText | None:
        before, marker, body = text.partition(self._tag)
        return _only_calls(before, body) if marker else _only_calls("", text)


class _PlainJson:
    """One JSON object or a list of them as the whole text."""

    name = "json"
    keep_special = False

    def matches(self, template: str) -> bool:
        return "tools" in template

    def begins(self, text: str) -> int:
        return _object_at(text)

    def parse(self, text: str) -> ParsedText | None:
        return _only_calls("", text)


TOOL_FORMATS: tuple[ToolFormat, ...] = (_Hermes(), _Mistral(), _Llama(), _PlainJson())
"""In order of preference; the last fits every template that mentions tools."""


def detect_format(template: str | None) -> ToolFormat | None:
    """Return the format that a chat template teaches, None if it knows no tools."""
    for candidate in TOOL_FORMATS:
        if template and candidate.matches(template):
            return candidate
    return None


class ToolFilter:
    """Lets a growing text through up to where a tool call may begin, and holds the rest."""

    def __init__(self, tool_format: ToolFormat) -> None:
        self._format = tool_format
        self._shown = 0
        self._text = ""

    def push(self, text: str) -> str:
        """Add text and return what is certainly content."""
        self._text += text
        begins = max(self._shown, self._format.begins(self._text))
        piece = self._text[self._shown : begins]
        self._shown = begins
        return piece

    def end(self) -> ParsedText:
        """Return the calls and the content not shown yet; malformed calls are content."""
        parsed = self._format.parse(self._text)
        if parsed is None:
            return ParsedText(self._text[self._shown :])
        return ParsedText(parsed.content[self._shown :], parsed.calls)


def _marker_at(text: str, marker: str) -> int:
    found = text.find(marker)
    return found if found >= 0 else len(text) - held_suffix(text, marker)


def _object_at(text: str) -> int:
    return 0 if text.lstrip()[:1] in {"{", "["} or not text.strip() else len(text)


def _only_calls(before: str, body: str) -> ParsedText | None:
    found = list(_json_calls(body))
    if not found or None in found:
        return None
    return ParsedText(before, tuple(call for call in found if call))


def _json_calls(text: str) -> Iterator[ToolCall | None]:
    """Yield the calls of JSON objects, side by side or in a list; None for anything else."""
    text = text.strip()
    listed = text.startswith("[") and text.endswith("]")
    at, end = (1, len(text) - 1) if listed else (0, len(text))
    while (at := _skip(text, at, "," if listed else ";")) < end:
        try:
            value, stop = _DECODER.raw_decode(text, at)
        except ValueError:
            yield None
            return
        yield _call(value, text[at:stop])
        at = stop


def _skip(text: str, at: int, separator: str) -> int:
    match = _SPACE.match(text, at)
    at = match.end() if match else at
    return _skip(text, at + 1, separator) if text[at : at + 1] == separator else at


def _call(value: Any, source: str) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name: Any = value.get("name")
    key = "arguments" if "arguments" in value else "parameters"
    arguments: Any = value.get(key, {})
    if isinstance(arguments, str):
        arguments = _load(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return ToolCall(name, _exact(source, key, arguments))


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


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
