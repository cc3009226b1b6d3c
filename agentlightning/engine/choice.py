"""One completion as text: reasoning, content, tool calls and tokens, in pieces or as a whole.

The same filters run for streamed and whole answers, so their contents agree byte for byte.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentlightning.engine.answer_format import AnswerParser, MarkedParser
from agentlightning.engine.reasoning import Split
from agentlightning.engine.request import FinishReason, TokenEvent
from agentlightning.engine.template import encode
from agentlightning.engine.text import Detokenizer, StopFilter

__all__ = ["ChoiceWriter", "Piece"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a choice, with the tokens it was made of or that came with it."""

    index: int
    reasoning: str | None = None
    """What was thought, before any of the text; None where nothing was."""
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    versions: tuple[int, ...] = ()
    calls: tuple[dict[str, Any], ...] = ()
    """Tool calls in OpenAI's shape; only in the last piece."""
    finish_reason: str | None = None
    stop: str | None = None
    """The stop string that ended the choice, if one did; only in the last piece."""


class ChoiceWriter:
    """Turns the tokens of one completion into text; used by one thread at a time."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        stop: Sequence[str],
        end_ids: frozenset[int],
        parser: AnswerParser | None = None,
        opening: str = "",
    ) -> None:
        """Start an empty choice.

        Args:
            tokenizer: A Hugging Face tokenizer.
            stop: Strings that end the content and are no part of it.
            end_ids: Ids that are no part of the text.
            parser: A new one, that finds reasoning and calls; None leaves all in the content.
            opening: What the prompt holds of the answer already.
        """
        self._parser = parser or MarkedParser()
        self._detokenizer = Detokenizer(tokenizer, keep_special=self._parser.keep_special)
        self._stop = StopFilter(stop)
        self._end_ids = end_ids
        self._said: list[Split] = []
        self._unsaid = Split()
        """What no piece has told yet."""
        self._unsent: list[TokenEvent] = []
        if opening:
            # Decoded behind the opening, as some tokenizers drop a text's first blank.
            self._detokenizer.push(encode(tokenizer, opening))
            self._show(self._parser.push(opening))

    @property
    def stopped(self) -> bool:
        """Tell whether a stop string was found."""
        return self._stop.hit

    @property
    def said(self) -> Split:
        """Return reasoning and content so far."""
        return Split.join(self._said)

    @property
    def content(self) -> str:
        """Return the content so far."""
        return self.said.content

    def push(self, ids: Sequence[int]) -> None:
        """Add tokens."""
        shown = [token for token in ids if token not in self._end_ids]
        self._show(self._parser.push(self._stop.push(self._detokenizer.push(shown))))

    def add(self, index: int, event: TokenEvent) -> Piece | None:
        """Add a token; returns a piece once there is text to send with it."""
        self.push([event.token_id])
        self._unsent.append(event)
        return self._piece(index) if self._unsaid.reasoning or self._unsaid.content else None

    def last(self, index: int, reason: FinishReason) -> Piece:
        """Return the piece that ends the choice, with all that was held back."""
        rest = self._stop.push(self._detokenizer.end()) + self._stop.end()
        said = self._parser.push(rest)
        held, found = self._parser.end()
        self._show(Split.join([said, held]))
        calls = tuple(_openai_call(call.name, call.arguments) for call in found)
        return self._piece(index, calls, "tool_calls" if calls and reason == "stop" else reason)

    def _show(self, said: Split) -> None:
        self._said.append(said)
        self._unsaid = Split.join([self._unsaid, said])

    def _piece(
        self,
        index: int,
        calls: tuple[dict[str, Any], ...] = (),
        finish: str | None = None,
    ) -> Piece:
        events, self._unsent = self._unsent, []
        said, self._unsaid = self._unsaid, Split()
        return Piece(
            index=index,
            reasoning=said.reasoning,
            text=said.content,
            token_ids=tuple(event.token_id for event in events),
            logprobs=tuple(event.logprob for event in events),
            top=tuple(event.top for event in events),
            versions=tuple(event.version for event in events),
            calls=calls,
            finish_reason=finish,
            stop=self._stop.found if finish else None,
        )


def _openai_call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
