"""From token ids to text, piece by piece: what may be shown now and what must be held back.

Each class is a small filter with `push` and `end`; the pieces it returns, joined, are the same
however the input was cut. Tool calls are found by `tools`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Detokenizer", "StopFilter", "held_suffix"]

_INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns ids into text, holding back ids whose bytes do not end on a character."""

    def __init__(self, tokenizer: Any, *, keep_special: bool = False) -> None:
        """Start an empty text.

        Args:
            tokenizer: A Hugging Face tokenizer.
            keep_special: Whether special tokens show in the text.
        """
        self._tokenizer = tokenizer
        self._skip = not keep_special
        self._context: list[int] = []
        """Ids already shown that the next ones are decoded behind: some tokenizers drop the
        space of a first token."""
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """Add ids and return the text that is certain now."""
        self._pending.extend(ids)
        text = self._decode([*self._context, *self._pending])
        if text.endswith(_INCOMPLETE):
            return ""
        return self._release(text)

    def end(self) -> str:
        """Return what was held back, incomplete characters replaced by U+FFFD."""
        return self._release(self._decode([*self._context, *self._pending]))

    def _release(self, text: str) -> str:
        piece = text[len(self._context_text) :]
        if piece:
            self._context, self._pending = self._pending, []
            self._context_text = self._decode(self._context)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )


class StopFilter:
    """Cuts a text at the first of several strings, which is not part of the result."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for `stops`; empty strings are not allowed."""
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that was found; the text ends before it."""

    @property
    def hit(self) -> bool:
        """Tell whether a stop string was found."""
        return self.found is not None

    def push(self, text: str) -> str:
        """Add text and return what cannot belong to a stop string."""
        if self.hit:
            return ""
        text = self._held + text
        hits = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            at, self.found = min(hits)
            self._held = ""
            return text[:at]
        held = max((held_suffix(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """Return the beginning of a stop string that never came to its end."""
        held, self._held = self._held, ""
        return held


def held_suffix(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that begins `marker` without completing it.

    Example:
        >>> held_suffix("answer <to", "<tool_call>")
        3
    """
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
