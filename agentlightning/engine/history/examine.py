"""Examining a chat template at start: what it does to histories, and whether they can be spliced.

Renders a handful of made-up conversations. It says what it found; what to do about it is for
whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agentlightning.engine.history.delta import TemplateDelta
from agentlightning.engine.template import encode, render_text
from agentlightning.errors import RequestError

__all__ = ["TemplateCheck", "TemplateReport", "examine_template"]

_SHOWN = 40
"""Characters of a departure that a report shows."""

_USER = {"role": "user", "content": "How warm is it?"}
_MORE = {"role": "user", "content": "And tomorrow?"}
_RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "content": "21 degrees"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _called(text: str = "") -> dict[str, Any]:
    function = {"name": "weather", "arguments": {"city": "Bonn"}}
    call = {"id": "abcdefgh1", "type": "function", "function": function}
    return {"role": "assistant", "content": text, "tool_calls": [call]}


_THOUGHT = "<think>\nLet me see.\n</think>\n\n"
_CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [_USER, _said("Warm."), _MORE, _said("Cold."), _USER],
    "system": [{"role": "system", "content": "Be brief."}, _USER, _said("Warm."), _MORE],
    "reasoning": [_USER, _said(_THOUGHT + "Warm."), _MORE, _said(_THOUGHT + "Cold."), _USER],
    "tools": [_USER, _called(), _RESULT, _said("Warm."), _MORE, _called(), _RESULT],
    "tools with reasoning": [_USER, _called(_THOUGHT), _RESULT, _said(_THOUGHT + "Warm."), _MORE],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCheck:
    """What the template does to one kind of conversation."""

    conversation: str
    supported: bool = True
    """False where the template refuses such a conversation."""
    keeps: bool = True
    """Each prompt, and the answer to it, is the beginning of the next prompt."""
    splices: bool = True
    """The end of each answer can be found, so that its tokens can be kept."""
    position: int | None = None
    """Character at which a later prompt departs, where `keeps` is false."""
    expected: str = ""
    got: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateReport:
    """What a chat template does to histories."""

    has_template: bool
    generation_head: str = ""
    """What it writes before an answer."""
    turn_end: str = ""
    """What it writes behind an answer, whatever comes next."""
    dated: bool = False
    """It writes the date, so that the same messages may render otherwise tomorrow."""
    checks: tuple[TemplateCheck, ...] = ()

    @property
    def append_safe(self) -> bool:
        """Whether rendered histories keep their beginnings, so that nothing needs splicing."""
        return self.has_template and all(check.keeps for check in self.checks if check.supported)

    @property
    def can_splice(self) -> bool:
        """Whether histories of every kind that it supports can be kept exactly."""
        return self.has_template and all(check.splices for check in self.checks if check.supported)

    @property
    def departing(self) -> tuple[str, ...]:
        """Kinds of conversations whose earlier turns it writes otherwise later on."""
        return tuple(c.conversation for c in self.checks if c.supported and not c.keeps)

    @property
    def unspliceable(self) -> tuple[str, ...]:
        """Kinds of conversations whose answers cannot be kept."""
        return tuple(c.conversation for c in self.checks if c.supported and not c.splices)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {**asdict(self), "append_safe": self.append_safe, "can_splice": self.can_splice}


def examine_template(tokenizer: Any, end_ids: frozenset[int]) -> TemplateReport:
    """Try a tokenizer's chat template on a few conversations; takes a few milliseconds.

    Args:
        tokenizer: A Hugging Face tokenizer; one without a template is reported as such.
        end_ids: Ids that end an answer when the model samples them.
    """
    if not tokenizer.chat_template:
        return TemplateReport(has_template=False)
    turn_end = _turn_end(tokenizer, TemplateDelta(tokenizer, end_ids), end_ids)
    delta = TemplateDelta(tokenizer, end_ids, turn_end=turn_end)
    return TemplateReport(
        has_template=True,
        generation_head=_generation_head(tokenizer, delta),
        turn_end=turn_end,
        dated="strftime_now" in str(tokenizer.chat_template),
        checks=tuple(
            _check(name, messages, tokenizer, delta) for name, messages in _CONVERSATIONS.items()
        ),
    )


def _turn_end(tokenizer: Any, delta: TemplateDelta, end_ids: frozenset[int]) -> str:
    alone = delta.text_after([_USER, _said("Warm.")], 1, generation_head=False)
    followed = delta.text_after([_USER, _said("Warm."), _MORE], 1)
    last, earlier = encode(tokenizer, alone or ""), encode(tokenizer, followed or "")
    shared = _common(last, earlier)
    if not shared and last and earlier and last[0] in end_ids:
        # Some templates end the last answer with one token, and earlier ones with another.
        shared = 1
    return tokenizer.decode(earlier[:shared], skip_special_tokens=False)


def _generation_head(tokenizer: Any, delta: TemplateDelta) -> str:
    """Return what a request for an answer adds behind a conversation."""
    history = [_USER, _said("Warm."), _MORE]
    bare = encode(tokenizer, delta.text_after(history, 1, generation_head=False) or "")
    asked = encode(tokenizer, delta.text_after(history, 1) or "")
    return tokenizer.decode(asked[_common(bare, asked) :], skip_special_tokens=False)


def _check(
    name: str, messages: Sequence[Mapping[str, Any]], tokenizer: Any, delta: TemplateDelta
) -> TemplateCheck:
    tools = [_TOOL] if name.startswith("tools") else []
    places = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    ends = [*places[1:], len(messages)]
    try:
        prompts = [render_text(tokenizer, messages[:at], tools=tools) for at in [*places, ends[-1]]]
    except RequestError:
        return TemplateCheck(conversation=name, supported=False)
    splices = all(
        delta.text_after(messages[:end], at, tools=tools) is not None
        for at, end in zip(places, ends, strict=True)
    )
    for at, before, after in zip(places, prompts, prompts[1:], strict=False):
        # How a model writes a call is its own affair, so only the text before one is compared.
        said = "" if "tool_calls" in messages[at] else str(messages[at]["content"])
        expected = before + said
        if not after.startswith(expected):
            position = _common(expected, after)
            return TemplateCheck(
                conversation=name,
                keeps=False,
                splices=splices,
                position=position,
                expected=expected[position : position + _SHOWN],
                got=after[position : position + _SHOWN],
            )
    return TemplateCheck(conversation=name, splices=splices)


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the common beginning."""
    size = min(len(left), len(right))
    return next((i for i in range(size) if left[i] != right[i]), size)
