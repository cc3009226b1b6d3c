"""Reasoning in a model's text: parted from the answer by the markers that the chat template teaches.

Pure functions of text. No character is changed: reasoning is what stands between the markers,
blanks included, and the answer what stands behind the closing one. So opening marker, reasoning,
closing marker and answer are the text again; only up to four blanks before an opening marker count
as part of it. A text without markers is all answer, and one whose thoughts do not end all
reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentlightning.engine.text import held_suffix

__all__ = [
    "REASONING_FORMATS",
    "ReasoningFilter",
    "ReasoningFormat",
    "Split",
    "detect_reasoning",
]

_BLANKS = 4
"""Most blanks before an opening marker: some models break lines before they think."""

_HEAD_TOKENS = 32
"""Tokens at the end of a prompt that hold any opening marker, even one token a byte."""


@dataclass(frozen=True, slots=True)
class Split:
    """A text, or a piece of one, parted."""

    reasoning: str | None = None
    """None where no thinking began; empty where it began and nothing was thought."""
    content: str = ""

    @classmethod
    def join(cls, pieces: Iterable[Split]) -> Split:
        """Return pieces, one behind the other, as one."""
        given = list(pieces)
        known = [piece.reasoning for piece in given if piece.reasoning is not None]
        return cls("".join(known) if known else None, "".join(piece.content for piece in given))


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """A way of marking reasoning, at the beginning of an answer and nowhere else."""

    opening: str
    closing: str

    def matches(self, template: str) -> bool:
        """Tell whether a chat template teaches this format."""
        # Some name the opening marker only, in the head of an answer, others only the closing one:
        # they cut off what stands before it.
        return self.opening in template or self.closing in template

    def is_open(self, prompt: str) -> bool:
        """Tell whether a prompt, or its end, leaves the model thinking."""
        return prompt.rstrip().endswith(self.opening)

    def is_open_after(self, tokenizer: Any, prompt_ids: list[int]) -> bool:
        """Tell the same of a prompt as ids.

        Args:
            tokenizer: A Hugging Face tokenizer.
            prompt_ids: The whole prompt.
        """
        end = tokenizer.decode(prompt_ids[-_HEAD_TOKENS:], skip_special_tokens=False)
        return self.is_open(end)

    def is_special(self, tokenizer: Any) -> bool:
        """Tell whether a marker is a special token, which decoding must then keep."""
        return any(
            token.special and str(token) in (self.opening, self.closing)
            for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        )


REASONING_FORMATS = (
    ReasoningFormat("<think>", "</think>"),
    ReasoningFormat("[THINK]", "[/THINK]"),
    ReasoningFormat("<seed:think>", "</seed:think>"),
    ReasoningFormat("<thinking>", "</thinking>"),
    ReasoningFormat("\u25c1think\u25b7", "\u25c1/think\u25b7"),
)
"""Of Qwen, DeepSeek, GLM and most others; of Mistral; of Seed; of Claude's style; of Kimi."""


def detect_reasoning(template: str | None) -> ReasoningFormat | None:
    """Return the format that a chat template teaches, None if it knows no reasoning."""
    for candidate in REASONING_FORMATS:
        if template and candidate.matches(template):
            return candidate
    return None


class ReasoningFilter:
    """Parts a growing text, holding back no more than may be a marker.

    The pieces, joined, are the same however the text was cut.
    """

    def __init__(self, reasoning_format: ReasoningFormat, *, is_open: bool) -> None:
        """Start an empty text.

        Args:
            reasoning_format: Its markers.
            is_open: Whether the prompt has opened the reasoning already.
        """
        self._format = reasoning_format
        self._has_begun = is_open
        """Whether it is known what the text begins with."""
        self._is_thinking = is_open
        self._held = ""

    def push(self, text: str) -> Split:
        """Add text and return what is certain now."""
        self._held += text
        if not self._has_begun:
            self._begin()
        if not self._has_begun:
            return Split()
        return self._think() if self._is_thinking else Split(content=self._take(len(self._held)))

    def end(self) -> Split:
        """Return the beginning of a marker that never came to its end."""
        held = self._take(len(self._held))
        return Split(held) if self._is_thinking else Split(content=held)

    def _begin(self) -> None:
        rest = self._held.lstrip()
        may_be = len(self._held) - len(rest) <= _BLANKS
        opening = self._format.opening
        if may_be and rest.startswith(opening):
            self._has_begun = self._is_thinking = True
            self._held = rest.removeprefix(opening)
        elif not (may_be and opening.startswith(rest)):
            self._has_begun = True

    def _think(self) -> Split:
        closing = self._format.closing
        end = self._held.find(closing)
        if end < 0:
            return Split(self._take(len(self._held) - held_suffix(self._held, closing)))
        reasoning = self._take(end)
        self._is_thinking = False
        self._take(len(closing))
        return Split(reasoning, self._take(len(self._held)))

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken
