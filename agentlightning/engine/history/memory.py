"""What was served to each conversation: prompts and answers as token ids, found by their messages.

A conversation is a set of beginnings: the digest of each list of messages that was answered leads
to the ids of its prompt, and that of the same list with an answer to the ids of both. So any
number of agents, forks and choices share one conversation. Bounded in tokens, in conversations
and in time. Safe to use from any thread.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentlightning._internal.clock import monotonic
from agentlightning.engine.history.messages import AnswerKey

__all__ = ["Answer", "HistoryLimits", "HistoryMemory", "Segment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """How much is remembered; what is past a bound goes, longest unused first."""

    conversations: int = 20_000
    tokens: int = 32_000_000
    """Of all conversations; a token takes four bytes, and one that several turns share counts
    once."""
    idle_seconds: float = 3600.0
    """A conversation unused for so long is forgotten."""


class Segment:
    """A run of token ids behind another one. Never changes."""

    __slots__ = ("ids", "length", "parent")

    def __init__(self, ids: Sequence[int], parent: Segment | None = None) -> None:
        self.ids = array("i", ids)
        self.parent = parent
        self.length: int = len(ids) + (parent.length if parent else 0)
        """Tokens from the start of the conversation to the end of this run."""

    def to_list(self) -> list[int]:
        """Return all ids from the start of the conversation."""
        parts: list[array[int]] = []
        segment: Segment | None = self
        while segment is not None:
            parts.append(segment.ids)
            segment = segment.parent
        return [token for part in reversed(parts) for token in part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sampled answer behind its prompt."""

    key: AnswerKey
    segment: Segment
    order: tuple[int, int]
    """Number of the call, and minus the index of the choice: among answers that say the same, the
    first choice of the latest call is the likeliest one that a client goes on with."""

    @property
    def last_id(self) -> int:
        """Return the last sampled id."""
        return self.segment.ids[-1]


@dataclass(slots=True)
class _Conversation:
    prompts: dict[bytes, dict[str, Segment]] = field(
        default_factory=dict[bytes, dict[str, Segment]]
    )
    """By what the answer had to begin with, which is mostly nothing."""
    answers: dict[bytes, list[Answer]] = field(default_factory=dict[bytes, list[Answer]])
    answered: set[bytes] = field(default_factory=set[bytes])
    """Beginnings with an answer, with their tools and options and without."""
    segments: set[Segment] = field(default_factory=set[Segment])
    tokens: int = 0
    used_at: float = 0.0


class HistoryMemory:
    """Remembers what was served."""

    def __init__(self, limits: HistoryLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()
        self._tokens = 0
        self._evicted = 0

    def knows(self, conversation: str) -> bool:
        """Tell whether anything of a conversation is remembered."""
        with self._lock:
            return self._touch(conversation) is not None

    def prompt(self, conversation: str, link: bytes, *, opening: str = "") -> Segment | None:
        """Return the prompt that was served for these very messages, tools and options.

        Args:
            conversation: Where to look.
            link: Digest of them.
            opening: What the answer has to begin with.
        """
        with self._lock:
            found = self._touch(conversation)
            return found.prompts.get(link, {}).get(opening) if found else None

    def was_asked(self, conversation: str, link: bytes) -> bool:
        """Tell whether we answered these very messages, tools and options."""
        with self._lock:
            found = self._touch(conversation)
            return found is not None and link in found.prompts

    def answer(self, conversation: str, link: bytes, key: AnswerKey) -> Answer | None:
        """Return the sampled answer that a message repeats.

        Args:
            conversation: Where to look.
            link: Digest of the messages up to and including that message.
            key: Of that message. Reasoning that it holds must be that of the answer; ids of tool
                calls only decide among several answers that say the same.
        """
        with self._lock:
            found = self._touch(conversation)
            known = found.answers.get(link, ()) if found else ()
            fitting = [
                each
                for each in known
                if key.reasoning in ("", each.key.reasoning, each.key.reasoning_in_text)
            ]
            return max(
                fitting,
                key=lambda each: (each.key.call_ids == key.call_ids, each.order),
                default=None,
            )

    def was_answered(self, conversation: str, link: bytes) -> bool:
        """Tell whether we gave the answer that these messages end with, whatever its reasoning.

        A link made without tools and options asks for any of them.
        """
        with self._lock:
            found = self._touch(conversation)
            return found is not None and link in found.answered

    def add(
        self,
        conversation: str,
        *,
        prompt_link: bytes,
        answer_link: bytes,
        loose_link: bytes,
        answer: Answer,
        opening: str = "",
    ) -> None:
        """Remember an answer and the prompt it was sampled behind, which ends with `opening`."""
        prompt = answer.segment.parent
        assert prompt is not None
        with self._lock:
            found = self._touch(conversation)
            if found is None:
                found = self._conversations[conversation] = _Conversation(used_at=monotonic())
            found.prompts.setdefault(prompt_link, {}).setdefault(opening, prompt)
            found.answers.setdefault(answer_link, []).append(answer)
            found.answered.update((answer_link, loose_link))
            segment: Segment | None = answer.segment
            while segment is not None and segment not in found.segments:
                found.segments.add(segment)
                found.tokens += len(segment.ids)
                self._tokens += len(segment.ids)
                segment = segment.parent
            self._shrink()

    def forget(self, conversation: str) -> None:
        """Free a conversation that has ended; unknown ones are no error."""
        with self._lock:
            self._drop(conversation)

    def size(self) -> tuple[int, int, int]:
        """Return conversations and tokens held, and conversations dropped for want of room."""
        with self._lock:
            return len(self._conversations), self._tokens, self._evicted

    # -- under the lock -------------------------------------------------------------------------

    def _touch(self, conversation: str) -> _Conversation | None:
        """Return a conversation, now the most recently used; expire those long unused."""
        present = monotonic()
        while self._conversations:
            name, oldest = next(iter(self._conversations.items()))
            if present - oldest.used_at <= self._limits.idle_seconds:
                break
            self._drop(name)
        found = self._conversations.get(conversation)
        if found is not None:
            found.used_at = present
            self._conversations.move_to_end(conversation)
        return found

    def _shrink(self) -> None:
        limits = self._limits
        while len(self._conversations) > limits.conversations or self._tokens > limits.tokens:
            self._drop(next(iter(self._conversations)))
            self._evicted += 1

    def _drop(self, conversation: str) -> None:
        dropped = self._conversations.pop(conversation, None)
        if dropped is not None:
            self._tokens -= dropped.tokens
