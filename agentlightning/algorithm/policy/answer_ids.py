"""The token ids that the engine would have sampled for an answer that somebody else wrote.

An answer is what the chat template writes behind the prompt that the engine would have made, up to
the end token, which is learnt like any other. Prompts are made as agents' are: with `exact` history
the tokens of earlier answers are repeated, so that a conversation becomes one row.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from agentlightning.engine.history.splicer import HistorySplicer
from agentlightning.engine.reasoning import detect_reasoning
from agentlightning.engine.template import encode, plain_messages, render_text
from agentlightning.errors import ConfigurationError, RequestError
from agentlightning.types import CallRecord
from agentlightning.types.call import CallChoice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentlightning.learning.demonstrations import Demonstration

__all__ = ["AnswerWriter"]


class AnswerWriter:
    """Turns conversations into calls, as if the engine had answered them."""

    def __init__(self, tokenizer: Any, end_ids: frozenset[int], *, remembers: bool = True) -> None:
        """Examine the chat template; takes a few milliseconds.

        Args:
            tokenizer: A Hugging Face tokenizer with a chat template.
            end_ids: Ids that end an answer when the model samples them.
            remembers: Whether prompts repeat the tokens of earlier answers (`exact` history).
        """
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._splicer = HistorySplicer(tokenizer, end_ids=end_ids)
        self._reasoning = detect_reasoning(str(tokenizer.chat_template))
        self._remembers = remembers
        self._numbers = itertools.count()

    def calls(self, demonstration: Demonstration, rollout_id: str) -> tuple[CallRecord, ...]:
        """Return a call for each answer of a conversation.

        Args:
            demonstration: The conversation.
            rollout_id: Of the calls.

        Raises:
            ConfigurationError: The chat template refuses the conversation, or writes an answer in
                a way in which the model could not have given it.
        """
        name = f"{rollout_id}/{next(self._numbers)}" if self._remembers else None
        try:
            return tuple(
                self._call(demonstration, place, name, rollout_id)
                for place in demonstration.answers
            )
        except RequestError as error:
            raise ConfigurationError(f"A record cannot be rendered: {error}") from error
        finally:
            if name is not None:
                self._splicer.forget(name)

    def _call(
        self, demonstration: Demonstration, place: int, name: str | None, rollout_id: str
    ) -> CallRecord:
        options: dict[str, Any] = {
            "tools": demonstration.tools,
            "template_kwargs": demonstration.template_kwargs,
        }
        messages, message = demonstration.messages[:place], demonstration.messages[place]
        plan = self._splicer.plan(name, messages, **options)
        ids = self._answer_ids(plain_messages(demonstration.messages[: place + 1]), options)
        self._splicer.remember(plan, message, ids)
        return CallRecord(
            call_id=f"{rollout_id}-{place}",
            rollout_id=rollout_id,
            attempt_id="",
            prompt_token_ids=plan.ids,
            choices=[CallChoice(message=dict(message), token_ids=ids, finish_reason="stop")],
            start_time=float(place),
            end_time=float(place),
        )

    def _answer_ids(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> list[int]:
        """Return the ids of the last message, from behind the prompt to its end token."""
        prompt = render_text(self._tokenizer, messages[:-1], **options)
        whole = render_text(self._tokenizer, messages, generation_head=False, **options)
        if not whole.startswith(prompt):
            return self._behind_open_reasoning(prompt, messages[-1])
        head, ids = encode(self._tokenizer, prompt), encode(self._tokenizer, whole)
        # Where a tokenizer joins head and answer, the model cannot: its prompt has ended.
        rest = ids[len(head) :] if ids[: len(head)] == head else self._encode(whole[len(prompt) :])
        ends = [place for place, token in enumerate(rest) if token in self._end_ids]
        return rest[: ends[-1] + 1] if ends else self._ended(rest)

    def _behind_open_reasoning(self, prompt: str, message: Mapping[str, Any]) -> list[int]:
        """Return the answer to a prompt that has begun to think, which templates drop later."""
        form = self._reasoning
        if form is None or not form.is_open(prompt) or message.get("tool_calls"):
            raise ConfigurationError(
                "The chat template writes an answer of a record otherwise than behind the prompt "
                "that asks for it, so the model could not have said it."
            )
        thought, said = message.get("reasoning_content") or "", str(message["content"])
        text = said if form.closing in said else f"{thought}\n{form.closing}\n\n{said}"
        return self._ended(self._encode(text))

    def _ended(self, ids: list[int]) -> list[int]:
        """Add an end token where the template writes none that the model knows."""
        own = getattr(self._tokenizer, "eos_token_id", None)
        end = own if own in self._end_ids else min(self._end_ids, default=None)
        if end is None:
            raise ConfigurationError(
                "The model has no end token, so its answers could never end: set "
                "tokenizer.eos_token or generation_config.eos_token_id."
            )
        return [*ids, end]

    def _encode(self, text: str) -> list[int]:
        """Encode the inside of a text; some tokenizers put a blank before a text's first word."""
        anchor = next(iter(sorted(self._end_ids)), None)
        if anchor is None:
            return encode(self._tokenizer, text)
        ids = encode(self._tokenizer, self._tokenizer.decode([anchor]) + text)
        return ids[1:] if ids[:1] == [anchor] else encode(self._tokenizer, text)
