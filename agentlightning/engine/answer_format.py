"""The way a model writes whole answers: reasoning, content and calls, by what its template teaches.

An answer format makes a parser for each answer, and says how an answer that must call a tool
begins. No HTTP and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from agentlightning.engine.harmony import HarmonyFilter, harmony_matches, harmony_opening
from agentlightning.engine.reasoning import (
    ReasoningFilter,
    ReasoningFormat,
    Split,
    detect_reasoning,
)
from agentlightning.engine.tool_formats.calls import ToolCall, ToolFormat, Tools
from agentlightning.engine.tools import ToolFilter, detect_format

__all__ = [
    "AnswerFormat",
    "AnswerOpening",
    "AnswerParser",
    "MarkedParser",
    "detect_answer_format",
]


class AnswerParser(Protocol):
    """Takes one growing answer apart."""

    keep_special: bool
    """Whether special tokens are part of the text it wants."""

    def push(self, text: str) -> Split:
        """Add text and return what is certain now."""
        ...

    def end(self) -> tuple[Split, tuple[ToolCall, ...]]:
        """Return what was held back, and all calls."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerOpening:
    """How an answer begins that must call a tool: text that the prompt ends with.

    It is context for the model and was not sampled, so it has no log-probability and is not
    learnt from; yet it is part of the message.
    """

    text: str
    reasoning: ReasoningFormat | None = None
    """What the prompt may have opened, and is closed before the call."""

    def behind(self, prompt: str) -> str:
        """Return what is to be added to a prompt, given its end."""
        if self.reasoning is None or not self.reasoning.is_open(prompt):
            return self.text
        line = "\n" if prompt.endswith("\n") else ""
        return f"{line}{self.reasoning.closing}\n\n{self.text}"


class AnswerFormat(Protocol):
    """A way of writing answers."""

    def parser(
        self,
        prompt_ids: list[int],
        *,
        tools: Tools | None,
        separate: bool = True,
        opening: AnswerOpening | None = None,
    ) -> AnswerParser:
        """Return a parser for one answer.

        Args:
            prompt_ids: The prompt: it may have opened the reasoning.
            tools: What may be called; None leaves calls in the content.
            separate: Whether reasoning is told apart from content.
            opening: What the prompt holds of the answer already.
        """
        ...

    def opening(self, tool: str | None) -> AnswerOpening | None:
        """Return how an answer begins that calls a tool, None where that is not known."""
        ...


class MarkedParser:
    """Reasoning between markers at the beginning, and calls between others behind it."""

    def __init__(
        self,
        *,
        tools: ToolFilter | None = None,
        reasoning: ReasoningFilter | None = None,
        keep_special: bool = False,
    ) -> None:
        """Start an empty answer.

        Args:
            tools: Finds calls; None leaves them in the content. Calls in the reasoning are none.
            reasoning: Parts reasoning from content; None leaves it there.
            keep_special: Whether markers are special tokens.
        """
        self.keep_special = keep_special
        self._tools = tools
        self._reasoning = reasoning

    def push(self, text: str) -> Split:
        said = self._reasoning.push(text) if self._reasoning else Split(content=text)
        return Split(said.reasoning, self._tools.push(said.content)) if self._tools else said

    def end(self) -> tuple[Split, tuple[ToolCall, ...]]:
        rest = self._reasoning.end() if self._reasoning else Split()
        if self._tools is None:
            return rest, ()
        shown = self._tools.push(rest.content)
        parsed = self._tools.end()
        return Split(rest.reasoning, shown + parsed.content), parsed.calls


class _Marked:
    """Of most models."""

    def __init__(self, template: str | None, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._reasoning = detect_reasoning(template)
        self._tools: ToolFormat | None = detect_format(template)
        self._shows_special = bool(self._reasoning and self._reasoning.is_special(tokenizer))
        self._calls_are_special = bool(self._tools and _is_special(self._tools, tokenizer))

    def parser(
        self,
        prompt_ids: list[int],
        *,
        tools: Tools | None,
        separate: bool = True,
        opening: AnswerOpening | None = None,
    ) -> MarkedParser:
        reasoning = None
        # Behind the beginning of a call nothing is thought any more.
        if self._reasoning is not None and separate and opening is None:
            is_open = self._reasoning.is_open_after(self._tokenizer, prompt_ids)
            reasoning = ReasoningFilter(self._reasoning, is_open=is_open)
        finds = ToolFilter(self._tools, tools) if self._tools and tools is not None else None
        keep_special = self._shows_special or (finds is not None and self._calls_are_special)
        return MarkedParser(tools=finds, reasoning=reasoning, keep_special=keep_special)

    def opening(self, tool: str | None) -> AnswerOpening | None:
        text = self._tools.opening(tool) if self._tools else None
        return None if text is None else AnswerOpening(text, self._reasoning)


class _HarmonyParser:
    keep_special = True

    def __init__(self, *, calls: bool, separate: bool) -> None:
        self._filter = HarmonyFilter(calls=calls, separate=separate)

    def push(self, text: str) -> Split:
        return self._filter.push(text)

    def end(self) -> tuple[Split, tuple[ToolCall, ...]]:
        rest = self._filter.end()
        return rest, tuple(self._filter.calls)


class _Harmony:
    """Of gpt-oss."""

    def parser(
        self,
        prompt_ids: list[int],
        *,
        tools: Tools | None,
        separate: bool = True,
        opening: AnswerOpening | None = None,
    ) -> _HarmonyParser:
        return _HarmonyParser(calls=tools is not None, separate=separate)

    def opening(self, tool: str | None) -> AnswerOpening:
        return AnswerOpening(harmony_opening(tool))


def detect_answer_format(tokenizer: Any) -> AnswerFormat:
    """Return the format that a tokenizer's chat template teaches."""
    template: str | None = tokenizer.chat_template
    if template and harmony_matches(template):
        return _Harmony()
    return _Marked(template, tokenizer)


def _is_special(tool_format: ToolFormat, tokenizer: Any) -> bool:
    tokens: Iterable[Any] = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return any(token.special and str(token) in tool_format.markers for token in tokens)
