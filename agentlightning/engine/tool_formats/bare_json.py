"""Calls that are the whole text: Llama's, and those of templates that teach nothing we know."""

from __future__ import annotations

from agentlightning.engine.tool_formats.calls import ParsedText, Tools, marker_at
from agentlightning.engine.tool_formats.json_calls import object_at, only_calls, opened_call

__all__ = ["Llama", "PlainJson"]

_TAG = "<|python_tag|>"


class Llama:
    """`{"name": ..., "parameters": {...}}` as the whole text, perhaps after `<|python_tag|>`."""

    name = "llama"
    markers: tuple[str, ...] = (_TAG,)

    def matches(self, template: str) -> bool:
        return _TAG in template or ("ipython" in template and '"parameters"' in template)

    def begins(self, text: str) -> int:
        return min(object_at(text), marker_at(text, _TAG))

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        before, marker, body = text.partition(_TAG)
        return only_calls(before, body) if marker else only_calls("", text)

    def opening(self, tool: str | None) -> str:
        return opened_call(tool, "parameters")


class PlainJson:
    """One JSON object or a list of them as the whole text."""

    name = "json"
    markers: tuple[str, ...] = ()

    def matches(self, template: str) -> bool:
        return "tools" in template

    def begins(self, text: str) -> int:
        return object_at(text)

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        return only_calls("", text)

    def opening(self, tool: str | None) -> None:
        # What the template teaches is not known, so nothing is put into the model's mouth.
        return None
