"""What every format shares: a call, a text taken apart, and what a format must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentlightning.engine.text import held_suffix

__all__ = ["ParsedText", "ToolCall", "ToolFormat", "Tools", "marker_at"]

Tools = Sequence[Mapping[str, Any]]
"""Tools in the shape of OpenAI's chat completions."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model wrote it."""

    name: str
    arguments: str
    """A JSON object; character for character as in the model's text where that is JSON."""


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A completed text, taken apart."""

    content: str
    """What stands before and after the calls."""
    calls: tuple[ToolCall, ...] = ()


class ToolFormat(Protocol):
    """A way of writing tool calls."""

    name: str
    markers: tuple[str, ...]
    """What marks calls; where they are special tokens, decoding must keep those."""

    def matches(self, template: str) -> bool:
        """Tell whether a chat template teaches this format."""
        ...

    def begins(self, text: str) -> int:
        """Return where a call begins or may begin; the length of `text` if nowhere."""
        ...

    def parse(self, text: str, tools: Tools = ()) -> ParsedText | None:
        """Take a completed text apart; None when its calls are malformed or absent.

        Args:
            text: All that the model wrote, apart from reasoning.
            tools: What it was offered: they type arguments where the format does not.
        """
        ...

    def opening(self, tool: str | None) -> str | None:
        """Return how an answer that calls a tool begins, as far as that is certain.

        It ends where a model's own tokens may go on: not behind a blank, which most tokenizers
        join to the word that follows.

        Args:
            tool: Name of the tool to call; None where the model may choose.

        Returns:
            None where the format has no certain beginning.
        """
        ...


def marker_at(text: str, marker: str) -> int:
    """Return where a marker begins or, at the end of the text, may begin; else its length."""
    found = text.find(marker)
    return found if found >= 0 else len(text) - held_suffix(text, marker)
