"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, of Hermes and Qwen."""

from __future__ import annotations

from agentlightning.engine.tool_formats.calls import ParsedText, ToolCall, Tools, marker_at
from agentlightning.engine.tool_formats.json_calls import json_calls, opened_call

__all__ = ["Hermes"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes:
    """JSON between markers, text before and after."""

    name = "hermes"
    markers: tuple[str, ...] = (_OPEN, _CLOSE)

    def matches(self, template: str) -> bool:
        return _OPEN in template

    def begins(self, text: str) -> int:
        return marker_at(text, _OPEN)

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        before, *parts = text.split(_OPEN)
        calls: list[ToolCall] = []
        after = ""
        for part in parts:
            body, close, rest = part.partition(_CLOSE)
            found = list(json_calls(body))
            if not close or not found or None in found:
                return None
            calls.extend(call for call in found if call)
            after += rest
        if not calls:
            return None
        return ParsedText(before + (after if after.strip() else ""), tuple(calls))

    def opening(self, tool: str | None) -> str:
        return f"{_OPEN}\n{opened_call(tool)}"
