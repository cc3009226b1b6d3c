"""`[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`, and `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

import re

from agentlightning.engine.tool_formats.calls import ParsedText, ToolCall, Tools, marker_at
from agentlightning.engine.tool_formats.json_calls import load_json, only_calls, opened_call

__all__ = ["Mistral", "MistralArgs"]

_OPEN, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME = re.compile(r"\s*([^\s\[\]{}]+)\s*(?:\[CALL_ID\][^\[]*)?\Z")


class Mistral:
    """A list of calls behind a marker; models before 2025."""

    name = "mistral"
    markers: tuple[str, ...] = (_OPEN,)

    def matches(self, template: str) -> bool:
        return _OPEN in template

    def begins(self, text: str) -> int:
        return marker_at(text, _OPEN)

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        before, marker, body = text.partition(_OPEN)
        if not marker:
            return None
        return only_calls(before, body)

    def opening(self, tool: str | None) -> str:
        # Templates differ in a blank behind the marker, which a model that may choose writes itself.
        return _OPEN if tool is None else f"{_OPEN}[{opened_call(tool)}"


class MistralArgs:
    """A marker before each call and one before its arguments; models since 2025."""

    name = "mistral-args"
    markers: tuple[str, ...] = (_OPEN, _ARGS, _ID)

    def matches(self, template: str) -> bool:
        return _OPEN in template and _ARGS in template

    def begins(self, text: str) -> int:
        return marker_at(text, _OPEN)

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        before, *parts = text.split(_OPEN)
        calls: list[ToolCall] = []
        for part in parts:
            head, marker, arguments = part.partition(_ARGS)
            name = _NAME.match(head)
            if not marker or not name or not isinstance(load_json(arguments), dict):
                return None
            calls.append(ToolCall(name[1], arguments.strip()))
        return ParsedText(before, tuple(calls)) if calls else None

    def opening(self, tool: str | None) -> str:
        return _OPEN if tool is None else f"{_OPEN}{tool}{_ARGS}"
