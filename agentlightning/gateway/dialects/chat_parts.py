"""What every writer reads out of chat answers, and writes into streams."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.jsontext import parse_json, write_json

__all__ = [
    "assistant_message",
    "cached_tokens",
    "calls_of",
    "first_choice",
    "read_answer",
    "sse",
    "text_of",
    "thought_of",
]


def sse(event: Members) -> bytes:
    """Return an event of a stream as it goes over the wire."""
    return b"event: " + event["type"].encode() + b"\ndata: " + write_json(event) + b"\n\n"


def read_answer(data: bytes) -> Members:
    """Return the object that a model server sent.

    Raises:
        UpstreamError: It is something else.
    """
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UpstreamError(f"The model server's answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UpstreamError("The model server's answer is not a JSON object.")
    return cast("Members", value)


def first_choice(answer: Members) -> Members:
    """Return the choice of a chat answer that the client gets.

    Raises:
        UpstreamError: It has none.
    """
    choices = answer.get("choices")
    if not choices:
        raise UpstreamError("The model server's answer has no choice.")
    return choices[0]


def thought_of(message: Members) -> str:
    """Return the thoughts in a chat message or a delta of one."""
    # Servers are about to shorten the name, and some send both.
    return message.get("reasoning_content") or message.get("reasoning") or ""


def text_of(message: Members) -> str:
    """Return the text in a chat message or a delta of one."""
    content = message.get("content")
    if isinstance(content, list):
        parts = cast("list[Members]", content)
        return "".join(part.get("text") or "" for part in parts)
    return content or ""


def calls_of(captured: CapturedAnswer) -> list[Members]:
    """Return the tool calls of a captured answer, each with an id."""
    choices = captured.choices
    message: Members = (choices[0].message if choices else None) or {}
    calls: list[Members] = message.get("tool_calls") or []
    return [{**call, "id": call.get("id") or f"call_{i}"} for i, call in enumerate(calls)]


def cached_tokens(usage: Members) -> int:
    """Return how many tokens of the prompt came from a cache."""
    details: Members = usage.get("prompt_tokens_details") or {}
    return details.get("cached_tokens") or 0


def assistant_message(
    texts: list[str], thoughts: list[str], calls: list[Members], **more: Any
) -> Members:
    """Return a turn of the assistant as one chat message.

    Args:
        texts: Joined without a separator, as the thoughts are.
        thoughts: What it thought.
        calls: Its tool calls.
        more: Further members; those that are empty are left out.
    """
    message: Members = {"role": "assistant", "content": "".join(texts)}
    if calls and not texts:
        message["content"] = None
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    message.update((key, value) for key, value in more.items() if value)
    return message
