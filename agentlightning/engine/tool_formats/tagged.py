"""Calls as tags within tags, values as plain text: of Qwen3-Coder and Qwen3.5, and of GLM."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from agentlightning.engine.tool_formats.calls import ParsedText, ToolCall, Tools, marker_at
from agentlightning.engine.tool_formats.typed_arguments import typed_arguments

__all__ = ["Glm", "QwenXml"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION = "<function="

_Written = tuple[str, list[tuple[str, str]], int]
"""Name of a call, its arguments as texts, and where it ends."""

# A value may hold tags of its own, so it ends where what follows it can only be the format's.
_QWEN_HEAD = re.compile(r"(?:<tool_call>\s*)?<function=([^>\s]+)\s*>\s*")
_QWEN_VALUE = re.compile(
    r"<parameter=([^>\n]+)>(.*?)</parameter>\s*(?=<parameter=|</function>)", re.DOTALL
)
_QWEN_END = re.compile(r"</function>(?:\s*</tool_call>)?")
_GLM_HEAD = re.compile(r"<tool_call>\s*([^\s<>{}]+)\s*")
_GLM_VALUE = re.compile(
    r"<arg_key>([^<]+)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*(?=<arg_key>|</tool_call>)",
    re.DOTALL,
)
_GLM_END = re.compile(r"</tool_call>")
_QWEN_START = re.compile(r"<tool_call>|<function=")
_GLM_START = re.compile(r"<tool_call>")


class QwenXml:
    """`<tool_call><function=f><parameter=x>1</parameter></function></tool_call>`.

    One newline around a value is the format's. The outer tags may be missing, as now and then
    they are.
    """

    name = "qwen-xml"
    markers: tuple[str, ...] = (_OPEN, _CLOSE)

    def matches(self, template: str) -> bool:
        return _FUNCTION in template and _OPEN in template

    def begins(self, text: str) -> int:
        return min(marker_at(text, _OPEN), marker_at(text, _FUNCTION))

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        return _parse(text, tools, _QWEN_START, _qwen_call)

    def opening(self, tool: str | None) -> str:
        return f"{_OPEN}\n{_FUNCTION}" if tool is None else f"{_OPEN}\n{_FUNCTION}{tool}>\n"


class Glm:
    """`<tool_call>f<arg_key>x</arg_key><arg_value>1</arg_value></tool_call>`, since GLM 4.5."""

    name = "glm"
    markers: tuple[str, ...] = (
        _OPEN,
        _CLOSE,
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    )

    def matches(self, template: str) -> bool:
        return "<arg_key>" in template and _OPEN in template

    def begins(self, text: str) -> int:
        return marker_at(text, _OPEN)

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        return _parse(text, tools, _GLM_START, _glm_call)

    def opening(self, tool: str | None) -> str:
        # What follows a name is a newline or a tag, as the version has it: the model's to write.
        return f"{_OPEN}{tool or ''}"


def _parse(
    text: str,
    tools: Tools,
    start: re.Pattern[str],
    read: Callable[[str, int], _Written | None],
) -> ParsedText | None:
    """Take a text apart: content, calls with blanks between them, perhaps content again."""
    at = _start(start, text, 0)
    content, calls = text[:at], list[ToolCall]()
    while at < len(text):
        written = read(text, at)
        if written is None:
            return None
        name, values, end = written
        calls.append(ToolCall(name, typed_arguments(name, values, tools)))
        at = _start(start, text, end)
        between = text[end:at]
        content += between if between.strip() else ""
    return ParsedText(content, tuple(calls)) if calls else None


def _start(start: re.Pattern[str], text: str, at: int) -> int:
    found = start.search(text, at)
    return found.start() if found else len(text)


def _qwen_call(text: str, at: int) -> _Written | None:
    found = _call(text, at, _QWEN_HEAD, _QWEN_VALUE, _QWEN_END)
    if found is None:
        return None
    name, values, end = found
    return name, [(key, value.removeprefix("\n").removesuffix("\n")) for key, value in values], end


def _glm_call(text: str, at: int) -> _Written | None:
    return _call(text, at, _GLM_HEAD, _GLM_VALUE, _GLM_END)


def _call(
    text: str, at: int, head: re.Pattern[str], value: re.Pattern[str], end: re.Pattern[str]
) -> _Written | None:
    begun = head.match(text, at)
    if begun is None:
        return None
    found = list(_each(value, text, begun.end()))
    ended = end.match(text, found[-1].end() if found else begun.end())
    if ended is None:
        return None
    return begun[1], [(each[1].strip(), each[2]) for each in found], ended.end()


def _each(pattern: re.Pattern[str], text: str, at: int) -> Iterator[re.Match[str]]:
    """Yield matches side by side."""
    while match := pattern.match(text, at):
        yield match
        at = match.end()
