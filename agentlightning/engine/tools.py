"""Tool calls in a model's text: which format a chat template teaches, and a growing text filtered.

Pure functions of text. A text that does not parse completely holds no calls: it stays content,
so nothing that the model wrote is lost.
"""

from __future__ import annotations

from agentlightning.engine.tool_formats.bare_json import Llama, PlainJson
from agentlightning.engine.tool_formats.calls import ParsedText, ToolCall, ToolFormat, Tools
from agentlightning.engine.tool_formats.hermes import Hermes
from agentlightning.engine.tool_formats.mistral import Mistral, MistralArgs
from agentlightning.engine.tool_formats.tagged import Glm, QwenXml

__all__ = ["TOOL_FORMATS", "ParsedText", "ToolCall", "ToolFilter", "ToolFormat", "detect_format"]

TOOL_FORMATS: tuple[ToolFormat, ...] = (
    QwenXml(),
    Glm(),
    Hermes(),
    MistralArgs(),
    Mistral(),
    Llama(),
    PlainJson(),
)
"""In order of preference; the last fits every template that mentions tools."""


def detect_format(template: str | None) -> ToolFormat | None:
    """Return the format that a chat template teaches, None if it knows no tools."""
    for candidate in TOOL_FORMATS:
        if template and candidate.matches(template):
            return candidate
    return None


class ToolFilter:
    """Lets a growing text through up to where a tool call may begin, and holds the rest."""

    def __init__(self, tool_format: ToolFormat, tools: Tools = ()) -> None:
        """Start an empty text.

        Args:
            tool_format: How calls are written.
            tools: What the model was offered.
        """
        self._format = tool_format
        self._tools = tools
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
        parsed = self._format.parse(self._text, self._tools)
        if parsed is None:
            return ParsedText(self._text[self._shown :])
        return ParsedText(parsed.content[self._shown :], parsed.calls)
