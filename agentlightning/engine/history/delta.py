"""What a chat template writes behind an answer, as token ids.

The answer is rendered as a mark in its real surroundings, and what follows the mark is the
template's own text: end of turn, later messages, head of the next answer. Nothing that was
sampled is rendered or tokenised again. Stateless; safe to use from any thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentlightning.engine.template import encode, render_text
from agentlightning.errors import RequestError

__all__ = ["TemplateDelta"]

Message = Mapping[str, Any]


class TemplateDelta:
    """Renders suffixes of conversations with one tokenizer."""

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], *, turn_end: str = "") -> None:
        """Prepare.

        Args:
            tokenizer: A Hugging Face tokenizer with a chat template.
            end_ids: Ids that end an answer when the model samples them.
            turn_end: What the template writes behind every answer, whatever comes next.
        """
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._turn_end = turn_end
        self._mark = f"MARK{uuid.uuid4().hex}"
        # A template may end its turns with a token that the model never samples.
        added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        written = {token for token in encode(tokenizer, turn_end)[:1] if token in added}
        texts = {token: tokenizer.decode([token]) for token in end_ids | written}
        # The longest first: one marker's text may begin another's.
        self._ends: list[tuple[str, int]] = sorted(
            ((text, token) for token, text in texts.items() if text), key=lambda end: -len(end[0])
        )
        self._anchor = self._find_anchor()

    def text_after(
        self,
        messages: Sequence[Message],
        at: int,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        generation_head: bool = True,
    ) -> str | None:
        """Return what the template writes behind the answer `messages[at]`.

        None: the template gives no such place, because it drops the answer, repeats it, refuses
        it, or ends tool calls in no way that can be seen.
        """
        answer = messages[at]
        for marked in self._marked(answer):
            try:
                text = render_text(
                    self._tokenizer,
                    [*messages[:at], marked, *messages[at + 1 :]],
                    tools=tools,
                    template_kwargs=template_kwargs,
                    generation_head=generation_head,
                )
            except RequestError:
                return None
            _, mark, tail = text.partition(self._mark)
            if mark:
                if self._mark in tail:
                    return None
                in_call = "tool_calls" in marked and self._mark != marked["content"]
                return self._behind_call(tail) if in_call else tail
        return None

    def ids_after(self, tail: str, last_id: int) -> list[int]:
        """Return the ids that follow an answer.

        Args:
            tail: As `text_after` gives it.
            last_id: Last sampled id of the answer. If it is an end token, it stands for the one
                that the template would write; otherwise the template's is added.
        """
        end = self._leading_end(tail)
        ids = self._encode_tail(tail, has_end=end is not None)
        if end is None or last_id not in self._end_ids:
            return ids
        text, token = end
        # Some templates end a turn with the head of the next one; then another end token is no
        # substitute for it.
        if token not in ids or (token != last_id and text not in self._turn_end):
            return ids
        return ids[ids.index(token) + 1 :]

    def _marked(self, answer: Message) -> Iterator[dict[str, Any]]:
        """Yield ways to write the mark into an answer, the best first."""
        calls = answer.get("tool_calls")
        if calls:
            *others, last = calls
            function = {**last["function"], "arguments": {"mark": self._mark}}
            marked = [*others, {**last, "function": function}]
            content = answer.get("content") or ""
            yield {"role": "assistant", "content": content, "tool_calls": marked}
        # Some templates leave calls out, and then it ends like any other answer.
        yield {"role": "assistant", "content": self._mark}

    def _behind_call(self, tail: str) -> str | None:
        """Cut off the rest of the tool call that holds the mark."""
        ends = [text for text, _ in self._ends] or [self._turn_end]
        places = [place for text in ends if text and (place := tail.find(text)) >= 0]
        return tail[min(places) :] if places else None

    def _leading_end(self, tail: str) -> tuple[str, int] | None:
        start = tail.lstrip()
        return next((end for end in self._ends if start.startswith(end[0])), None)

    def _encode_tail(self, tail: str, *, has_end: bool) -> list[int]:
        if has_end or self._anchor is None:
            return encode(self._tokenizer, tail)
        # Why: tokenizers of the SentencePiece family put a blank before a text's first word.
        text, token = self._anchor
        ids = encode(self._tokenizer, text + tail)
        return ids[1:] if ids[:1] == [token] else encode(self._tokenizer, tail)

    def _find_anchor(self) -> tuple[str, int] | None:
        """Return a special token that leaves blanks behind it alone."""
        added: Mapping[int, Any] = getattr(self._tokenizer, "added_tokens_decoder", {})
        return next(
            (end for end in self._ends if end[1] in added and not added[end[1]].rstrip), None
        )
