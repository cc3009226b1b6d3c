"""The splicer: prompts that continue the tokens already sampled.

A template renders a conversation anew at each turn, and what it writes for earlier answers is
often not what the model sampled. The splicer remembers, finds the longest beginning of a new
request that it served itself, repeats its ids, and renders only what comes after.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from agentlightning.engine.answer_format import AnswerOpening
from agentlightning.engine.history.delta import TemplateDelta
from agentlightning.engine.history.examine import TemplateReport, examine_template
from agentlightning.engine.history.memory import Answer, HistoryLimits, HistoryMemory, Segment
from agentlightning.engine.history.messages import (
    AnswerKey,
    answer_key,
    chain,
    context_key,
    message_key,
)
from agentlightning.engine.template import encode, plain_messages, render_text

__all__ = ["HistoryCause", "HistorySplicer", "HistoryStats", "PromptKind", "PromptPlan"]

PromptKind = Literal["first", "repeated", "spliced", "rendered"]
"""`first`: there was no answer to keep; `repeated`: the same messages were answered before;
`spliced`: it continues sampled answers; `rendered`: it holds answers, none of which was kept."""


class HistoryCause(StrEnum):
    """Why answers in a prompt are not the tokens that were sampled."""

    UNKNOWN = "unknown"
    """Nothing is remembered of this conversation: it began elsewhere, or was forgotten."""

    TOOLS = "tools"
    """The tools, or the template's options, are others than when the answer was sampled."""

    CONTEXT = "context"
    """Messages before the answer are others: compacted, reordered, made up as examples."""

    EDITED = "edited"
    """The client changed the answer, or put another one in its place."""

    TEMPLATE = "template"
    """The template shows no place where an answer ends."""

    LENGTH = "length"
    """The exact history is too long for the model, and what the template renders is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """A prompt, and how it was made."""

    ids: list[int]
    kind: PromptKind
    cause: HistoryCause | None = None
    """Set where an answer in the messages is rendered; also beside `spliced`, when answers after
    the kept ones are not ours."""
    kept: int = 0
    """Tokens repeated from earlier calls."""
    place: _Place | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in its conversation a prompt stands."""

    conversation: str
    links: list[bytes]
    loose: list[bytes]
    segment: Segment
    opening: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStats:
    """What a splicer has done since it was made."""

    prompts: Mapping[PromptKind, int]
    causes: Mapping[HistoryCause, int]
    kept_tokens: int
    conversations: int
    """Held now."""
    tokens: int
    """Held now."""
    evicted: int
    """Conversations dropped for want of room."""


@dataclass(frozen=True, slots=True)
class _Query:
    """A request, read."""

    conversation: str
    messages: list[dict[str, Any]]
    answers: list[AnswerKey | None]
    links: list[bytes]
    loose: list[bytes]
    tools: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    opening: AnswerOpening | None

    @property
    def opening_text(self) -> str:
        return self.opening.text if self.opening else ""

    def answer_places(self, start: int = 0) -> list[int]:
        return [i for i in range(start, len(self.answers)) if self.answers[i] is not None]


class HistorySplicer:
    """Makes prompts of one model. Its methods may be called from any thread, many at once."""

    def __init__(
        self, tokenizer: Any, *, end_ids: frozenset[int], limits: HistoryLimits | None = None
    ) -> None:
        """Examine the template; takes a few milliseconds.

        Args:
            tokenizer: A Hugging Face tokenizer with a chat template.
            end_ids: Ids that end an answer when the model samples them.
            limits: Bounds of memory.
        """
        self._tokenizer = tokenizer
        self._memory = HistoryMemory(limits or HistoryLimits())
        self.template: TemplateReport = examine_template(tokenizer, end_ids)
        """What the template does to histories."""
        self._delta = TemplateDelta(tokenizer, end_ids, turn_end=self.template.turn_end)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._kinds: Counter[PromptKind] = Counter()
        self._causes: Counter[HistoryCause] = Counter()
        self._kept_tokens = 0

    def plan(
        self,
        conversation: str | None,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        opening: AnswerOpening | None = None,
        max_tokens: int | None = None,
        is_trial: bool = False,
    ) -> PromptPlan:
        """Return the prompt of a request.

        Args:
            conversation: Whose history it may continue; None renders it by itself.
            messages: In the shape of OpenAI's chat completions.
            tools: Likewise.
            template_kwargs: Further variables of the template.
            opening: How the answer has to begin. It ends the prompt, and later prompts hold it.
            max_tokens: Longest prompt. A longer one is rendered anew where that makes it fit.
            is_trial: Whether the prompt is only looked at, and not counted in `stats`.

        Raises:
            RequestError: The messages hold something other than text, or the template refuses
                them.
            ConfigurationError: The tokenizer has no chat template.
        """
        options = template_kwargs or {}
        plain = plain_messages(messages)
        if conversation is None:
            ids = self._render(plain, tools, options, opening)
            plan = PromptPlan(ids=ids, kind="first")
            return plan if is_trial else self._count(plan)
        answers = [answer_key(m) if m.get("role") == "assistant" else None for m in plain]
        keys = [
            answer.said if answer else message_key(message)
            for answer, message in zip(answers, plain, strict=True)
        ]
        query = _Query(
            conversation=conversation,
            messages=plain,
            answers=answers,
            links=chain(context_key(tools, options), keys),
            loose=chain(b"", keys),
            tools=tools,
            options=options,
            opening=opening,
        )
        plan = self._repeat(query) or self._splice(query) or self._anew(query)
        if max_tokens is not None and plan.kept and len(plan.ids) > max_tokens:
            shorter = self._anew(query, HistoryCause.LENGTH)
            plan = shorter if len(shorter.ids) <= max_tokens else plan
        return plan if is_trial else self._count(plan)

    def remember(
        self,
        plan: PromptPlan,
        message: Mapping[str, Any],
        token_ids: Sequence[int],
        *,
        choice: int = 0,
    ) -> None:
        """Remember an answer, before its client can send it back.

        Args:
            plan: The prompt that it was sampled behind.
            message: As the client receives it.
            token_ids: As sampled, an end token included; without any, nothing is remembered.
            choice: Its index among the answers to that prompt.
        """
        place = plan.place
        if place is None or not token_ids:
            return
        key = answer_key(message)
        self._memory.add(
            place.conversation,
            prompt_link=place.links[-1],
            opening=place.opening,
            answer_link=chain(place.links[-1], [key.said])[-1],
            loose_link=chain(place.loose[-1], [key.said])[-1],
            answer=Answer(
                key=key,
                segment=Segment(token_ids, place.segment),
                order=(place.number, -choice),
            ),
        )

    def forget(self, conversation: str) -> None:
        """Free what is remembered of a conversation that has ended; idempotent."""
        self._memory.forget(conversation)

    def stats(self) -> HistoryStats:
        """Return a snapshot."""
        conversations, tokens, evicted = self._memory.size()
        with self._lock:
            return HistoryStats(
                prompts=dict(self._kinds),
                causes=dict(self._causes),
                kept_tokens=self._kept_tokens,
                conversations=conversations,
                tokens=tokens,
                evicted=evicted,
            )

    # -- three ways to a prompt -----------------------------------------------------------------

    def _repeat(self, query: _Query) -> PromptPlan | None:
        segment = self._memory.prompt(
            query.conversation, query.links[-1], opening=query.opening_text
        )
        if segment is None:
            return None
        return self._planned(query, "repeated", segment, kept=segment.length)

    def _splice(self, query: _Query) -> PromptPlan | None:
        """Continue the longest beginning that ends with a sampled answer."""
        for at in reversed(query.answer_places()):
            key = query.answers[at]
            assert key is not None
            answer = self._memory.answer(query.conversation, query.links[at + 1], key)
            if answer is None:
                continue
            tail = self._delta.text_after(
                query.messages, at, tools=query.tools, template_kwargs=query.options
            )
            if tail is None:
                return self._anew(query, HistoryCause.TEMPLATE)
            if query.opening is not None:
                tail += query.opening.behind(tail)
            suffix = self._delta.ids_after(tail, answer.last_id)
            segment = Segment(suffix, answer.segment)
            kept = answer.segment.length
            return self._planned(
                query, "spliced", segment, kept=kept, cause=self._cause(query, at + 1)
            )
        return None

    def _anew(self, query: _Query, cause: HistoryCause | None = None) -> PromptPlan:
        cause = cause or self._cause(query)
        ids = self._render(query.messages, query.tools, query.options, query.opening)
        segment = Segment(ids)
        return self._planned(query, "rendered" if cause else "first", segment, cause=cause)

    def _cause(self, query: _Query, start: int = 0) -> HistoryCause | None:
        """Say why the first answer from `start` on is not kept; None if there is none."""
        places = query.answer_places(start)
        if not places:
            return None
        memory, name = self._memory, query.conversation
        if not memory.knows(name):
            return HistoryCause.UNKNOWN
        links = {query.loose[at + 1]: query.links[at + 1] for at in places}
        for loose, link in links.items():
            if memory.was_answered(name, loose) and not memory.was_answered(name, link):
                return HistoryCause.TOOLS
        was_asked = memory.was_asked(name, query.links[places[0]])
        return HistoryCause.EDITED if was_asked else HistoryCause.CONTEXT

    def _planned(
        self,
        query: _Query,
        kind: PromptKind,
        segment: Segment,
        *,
        kept: int = 0,
        cause: HistoryCause | None = None,
    ) -> PromptPlan:
        place = _Place(
            query.conversation,
            query.links,
            query.loose,
            segment,
            query.opening_text,
            next(self._numbers),
        )
        return PromptPlan(ids=segment.to_list(), kind=kind, cause=cause, kept=kept, place=place)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        opening: AnswerOpening | None,
    ) -> list[int]:
        text = render_text(self._tokenizer, messages, tools=tools, template_kwargs=options)
        text += opening.behind(text) if opening else ""
        return encode(self._tokenizer, text)

    def _count(self, plan: PromptPlan) -> PromptPlan:
        with self._lock:
            self._kinds[plan.kind] += 1
            self._kept_tokens += plan.kept
            if plan.cause is not None:
                self._causes[plan.cause] += 1
        return plan
