"""Telling whether two messages say the same, however clients spell them.

Pure functions of parsed messages. What clients change without meaning to is not looked at:
order and spelling of JSON, blanks around an answer, ids of tool calls, reasoning left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentlightning.engine.reasoning import REASONING_FORMATS

__all__ = ["AnswerKey", "answer_key", "chain", "context_key", "digest", "message_key"]

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """What an assistant's message says."""

    said: bytes
    """Digest of text and tool calls, without reasoning and ids."""
    reasoning: str
    """Stripped; empty where there is none or the client left it out."""
    reasoning_in_text: str
    """The part of it that stands in the text: what is left where a client drops the field."""
    call_ids: tuple[str, ...]
    """Ids of its tool calls: they tell apart answers that say the same."""


def answer_key(message: Mapping[str, Any]) -> AnswerKey:
    """Return what identifies an assistant's message.

    Args:
        message: In the shape of chat completions; `content` a string, a list of text parts or
            None.

    Example:
        >>> one = answer_key({"content": "<think>so</think> Yes. "})
        >>> one.said == answer_key({"content": "Yes."}).said, one.reasoning
        (True, 'so')
    """
    reasoning, text = _split_reasoning(_text(message.get("content")))
    told = next((message[name] for name in _REASONING_FIELDS if message.get(name)), None)
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    functions = [_function(call.get("function")) for call in calls]
    thoughts = [told.strip() if isinstance(told, str) else "", reasoning.strip()]
    return AnswerKey(
        said=digest(["assistant", text.strip(), functions]),
        reasoning="\n".join(filter(None, thoughts)),
        reasoning_in_text=thoughts[1],
        call_ids=tuple(str(call.get("id") or "") for call in calls),
    )


def message_key(message: Mapping[str, Any]) -> bytes:
    """Return a digest of any message; assistants' without reasoning and ids."""
    if message.get("role") == "assistant":
        return answer_key(message).said
    rest = {
        name: value
        for name, value in message.items()
        if value is not None and name not in {"content", "tool_call_id", "id"}
    }
    return digest([_text(message.get("content")), rest])


def context_key(tools: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> bytes:
    """Return a digest of what a prompt holds besides messages: tools, in order, and options."""
    return digest([list(tools), dict(options)])


def chain(start: bytes, keys: Iterable[bytes]) -> list[bytes]:
    """Return one digest for each beginning of a conversation, the empty one first."""
    links = [start]
    for key in keys:
        links.append(blake2b(links[-1] + key, digest_size=16).digest())
    return links


def digest(value: Any) -> bytes:
    """Return a digest of a JSON value that does not depend on the order of its keys."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), default=repr)
    return blake2b(text.encode(), digest_size=16).digest()


def _canonical(value: Any) -> Any:
    """Write whole floats as integers, as clients in other languages do."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


def _function(function: Any) -> list[Any]:
    if not isinstance(function, Mapping):
        return [None, None]
    arguments: Any = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            arguments = arguments.strip()
    return [function.get("name"), {} if arguments is None else arguments]


def _text(content: Any) -> str:
    """Return a content as text; parts that are none stand for themselves as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    return "".join(
        text if isinstance(text, str) else digest(part).hex()
        for text, part in zip(texts, parts, strict=True)
    )


def _split_reasoning(text: str) -> tuple[str, str]:
    """Return reasoning and answer of a text that may hold both.

    The opening marker may be missing: some templates end their prompts with it.
    """
    for each in REASONING_FORMATS:
        before, marker, after = text.rpartition(each.closing)
        if marker:
            return _without_start(before), after
    opened = _without_start(text)
    return (opened, "") if opened != text.lstrip() else ("", text)


def _without_start(text: str) -> str:
    text = text.lstrip()
    for each in REASONING_FORMATS:
        text = text.removeprefix(each.opening)
    return text
