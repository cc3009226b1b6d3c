"""Records of answers, read: conversations to imitate, preferences, and labelled answers.

Takes the forms that `agl export` writes, which are those of OpenAI and TRL. Pure functions of
records; templates and tokens come later, where there is a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from agentlightning.errors import ConfigurationError

__all__ = [
    "Demonstration",
    "ReadRecord",
    "is_record",
    "read_demonstration",
    "read_labelled",
    "read_preference",
]

Message: TypeAlias = Mapping[str, Any]

_MARKS = frozenset({"messages", "completion", "chosen", "preferred_output"})
"""Members of which every record has at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A conversation and what of it is an answer to learn from."""

    messages: tuple[Message, ...]
    """In the shape of OpenAI's chat completions."""
    answers: tuple[int, ...]
    """Places of the assistant's messages that count; the others are context."""
    tools: tuple[Message, ...] = ()
    template_kwargs: Message = field(default_factory=dict[str, Any])
    """Further variables of the chat template, from the member `chat_template_kwargs`."""
    reward: float = 1.0


ReadRecord: TypeAlias = Callable[[Any], tuple[Demonstration, ...]]
"""From a record to the conversations in it, which are compared with one another."""


def is_record(item: Any) -> bool:
    """Return whether an item of a dataset looks like a record, and not like a task.

    Example:
        >>> is_record({"prompt": "1+1", "completion": "2"}), is_record({"question": "1+1"})
        (True, False)
    """
    if isinstance(item, Mapping):
        return not _MARKS.isdisjoint(cast("Mapping[Any, Any]", item))
    return _is_conversation(item)


def read_demonstration(record: Any) -> tuple[Demonstration, ...]:
    """Read one conversation to imitate.

    The record is a list of messages, or has `messages` (assistant messages with `weight` 0 are
    context) or `prompt` and `completion` (texts, or lists of messages; the answers are those of
    the completion). `tools` and `chat_template_kwargs` may stand beside, and `reward`.

    Raises:
        ConfigurationError: It is none of these, or holds no answer.
    """
    members = {"messages": record} if _is_conversation(record) else _members(record)
    if "messages" in members:
        return (_conversation(members, members["messages"]),)
    prompt, completion = _both(members, "prompt", "completion")
    return (_continued(members, _said(prompt, "user"), completion),)


def read_preference(record: Any) -> tuple[Demonstration, ...]:
    """Read a better and a worse answer, with rewards 1 and 0.

    The record has `chosen` and `rejected`, and `prompt` unless both begin with it; or, in OpenAI's
    form, `input`, `preferred_output` and `non_preferred_output`.

    Raises:
        ConfigurationError: It is neither, or an answer is empty.
    """
    members = _members(record)
    if "preferred_output" in members:
        given, chosen, rejected = _both(
            members, "input", "preferred_output", "non_preferred_output"
        )
        members, prompt = given, given["messages"]
    elif "prompt" in members:
        prompt, chosen, rejected = _both(members, "prompt", "chosen", "rejected")
        prompt = _said(prompt, "user")
    else:
        chosen, rejected = _both(members, "chosen", "rejected")
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return (
        _continued(members, prompt, chosen, reward=1.0),
        _continued(members, prompt, rejected, reward=0.0),
    )


def read_labelled(record: Any) -> tuple[Demonstration, ...]:
    """Read one answer that is good or bad: `prompt`, `completion` and `label`.

    Raises:
        ConfigurationError: A member is missing, or the answer is empty.
    """
    members = _members(record)
    prompt, completion, label = _both(members, "prompt", "completion", "label")
    return (_continued(members, _said(prompt, "user"), completion, reward=float(bool(label))),)


def _members(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ConfigurationError(
            f"A record of answers is a mapping or a list of messages, not a "
            f"{type(record).__name__}: see docs/guides/export.md for the forms."
        )
    return cast("Mapping[str, Any]", record)


def _both(members: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    missing = [name for name in names if members.get(name) is None]
    if missing:
        raise ConfigurationError(
            f"A record has {', '.join(members) or 'no members'}, but no {' and no '.join(missing)}: "
            "see docs/guides/export.md for the forms of records."
        )
    return tuple(members[name] for name in names)


def _is_conversation(item: Any) -> bool:
    return (
        isinstance(item, Sequence)
        and not isinstance(item, str | bytes)
        and len(cast("Sequence[Any]", item)) > 0
        and all(isinstance(each, Mapping) and "role" in each for each in cast("Any", item))
    )


def _said(given: Any, role: str) -> list[Message]:
    """Return a text as a message of `role`, and messages as they are."""
    return [{"role": role, "content": given}] if isinstance(given, str) else list(given)


def _continued(
    members: Mapping[str, Any],
    prompt: Sequence[Message],
    completion: Any,
    *,
    reward: float | None = None,
) -> Demonstration:
    return _conversation(
        members, [*prompt, *_said(completion, "assistant")], start=len(prompt), reward=reward
    )


def _conversation(
    members: Mapping[str, Any],
    messages: Sequence[Message],
    *,
    start: int = 0,
    reward: float | None = None,
) -> Demonstration:
    answers = tuple(
        place
        for place, message in enumerate(messages)
        if place >= start and message.get("role") == "assistant" and message.get("weight", 1)
    )
    if not answers:
        raise ConfigurationError(
            "A record holds no assistant message to learn from, so it teaches nothing; leave it out."
        )
    tools: Any = members.get("tools") or ()
    given = members.get("reward") if reward is None else reward
    return Demonstration(
        messages=tuple({k: v for k, v in each.items() if k != "weight"} for each in messages),
        answers=answers,
        tools=tuple(json.loads(tools) if isinstance(tools, str) else tools),
        template_kwargs=dict(members.get("chat_template_kwargs") or {}),
        reward=1.0 if given is None else float(given),
    )


def _shared(chosen: Any, rejected: Any) -> int:
    """Return the length of the common beginning of two conversations."""
    if not (_is_conversation(chosen) and _is_conversation(rejected)):
        raise ConfigurationError(
            "A preference without `prompt` needs two whole conversations in chosen and rejected."
        )
    size = min(len(chosen), len(rejected))
    return next((place for place in range(size) if chosen[place] != rejected[place]), size)
