"""A whole answer told as a stream, for servers that give token ids outside of streams only."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.stream import ServerEvent

__all__ = ["events_of_whole"]

_OF_CHOICE = frozenset({"message", "index"})


def events_of_whole(body: bytes, *, kind: str, with_usage: bool) -> list[ServerEvent]:
    """Return the events of a stream that says what a complete answer says.

    Each choice is one chunk; what else stands in the answer goes with the first.

    Args:
        body: The answer, a JSON object.
        kind: `object` of the chunks; what chat answers call a message is their delta.
        with_usage: End with a chunk that has the usage, as `stream_options.include_usage` asks.
    """
    answer: dict[str, Any] = parse_json(body)
    usage = answer.pop("usage", None)
    choices = cast("list[dict[str, Any]]", answer.pop("choices", None) or [])
    head = {**answer, "object": kind}
    common = {key: head[key] for key in ("id", "object", "created", "model") if key in head}
    events = [
        _event({**(head if at == 0 else common), "choices": [_chunk_of(choice)]})
        for at, choice in enumerate(choices)
    ]
    if with_usage and usage is not None:
        events.append(_event({**common, "choices": [], "usage": usage}))
    return [*events, ServerEvent(b"data: [DONE]\n\n", b"[DONE]")]


def _chunk_of(choice: dict[str, Any]) -> dict[str, Any]:
    if "message" not in choice:
        return choice
    message = cast("dict[str, Any]", choice.get("message") or {})
    calls = message.get("tool_calls")
    if calls:
        numbered = [{"index": at, **call} for at, call in enumerate(calls)]
        message = {**message, "tool_calls": numbered}
    rest = {key: value for key, value in choice.items() if key not in _OF_CHOICE}
    return {"index": choice.get("index", 0), "delta": message, **rest}


def _event(chunk: dict[str, Any]) -> ServerEvent:
    data = write_json(chunk)
    return ServerEvent(b"data: " + data + b"\n\n", data)
