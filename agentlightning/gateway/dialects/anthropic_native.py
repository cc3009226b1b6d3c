"""Anthropic messages to a server that speaks them: bytes pass as they are, and are captured."""

from __future__ import annotations

import json
from typing import Any, cast

from agentlightning.errors import RequestError, UpstreamError
from agentlightning.gateway.dialects.anthropic_request import to_chat_request
from agentlightning.gateway.dialects.base import CapturedAnswer, Exchange
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent
from agentlightning.types.call import CallChoice

__all__ = ["NativeMessageExchange"]

Members = dict[str, Any]

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_JOINED = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}
"""Kinds of delta whose texts add up, and the member that holds the text."""


class NativeMessageExchange(Exchange):
    """One call that the upstream answers in the client's own format."""

    def __init__(self, request: Members, body: bytes, route: ModelRoute) -> None:
        self.upstream_path = "/v1/messages"
        same = request.get("model") == route.model
        self.upstream_body = body if same else write_json({**request, "model": route.model})
        self.stream = bool(request.get("stream"))
        try:
            self.chat_request = to_chat_request(request, trained=route.trained)
        except RequestError:
            # The server may well know what chat completions cannot say.
            self.chat_request = None
        self._message: Members = {}
        self._blocks: dict[int, Members] = {}
        self._over = False

    def take_whole(self, body: bytes) -> bytes:
        message = _read(body)
        if not isinstance(message.get("content"), list):
            raise UpstreamError("The model server's answer is not an Anthropic message.")
        self._message = message
        self._blocks = dict(enumerate(cast("list[Members]", message["content"])))
        return body

    def take_event(self, event: ServerEvent) -> bytes:
        if event.data is not None and event.data.strip():
            self._take(_read(event.data))
        return event.raw

    @property
    def is_complete(self) -> bool:
        ended = self._message.get("stop_reason") is not None
        return ended or self._over or self.failure is not None

    @property
    def is_over(self) -> bool:
        return self._over

    def answer(self) -> CapturedAnswer:
        if not self._message:
            return CapturedAnswer()
        reason = self._message.get("stop_reason")
        message = _chat_message([self._blocks[at] for at in sorted(self._blocks)])
        choice = CallChoice(
            message=message, finish_reason=_FINISH_REASONS.get(reason or "", reason)
        )
        name = self._message.get("id")
        usage = _chat_usage(self._message.get("usage") or {})
        return CapturedAnswer(str(name) if name else None, choices=[choice], usage=usage)

    def _take(self, event: Members) -> None:
        match event.get("type"):
            case "message_start":
                self._message = dict(event.get("message") or {})
            case "content_block_start":
                self._blocks[event.get("index") or 0] = dict(event.get("content_block") or {})
            case "content_block_delta":
                block = self._blocks.setdefault(event.get("index") or 0, {})
                _add(block, event.get("delta") or {})
            case "message_delta":
                self._message.update(event.get("delta") or {})
                usage = {key: n for key, n in (event.get("usage") or {}).items() if n is not None}
                self._message["usage"] = {**(self._message.get("usage") or {}), **usage}
            case "message_stop":
                self._over = True
            case "error":
                error = event.get("error") or {}
                self.failure = str(error.get("message") or "The model server reported an error.")
            case _:
                pass


def _add(block: Members, delta: Members) -> None:
    """Add one delta to a block, in place."""
    kind = str(delta.get("type"))
    if kind in _JOINED:
        member = _JOINED[kind]
        block[member] = (block.get(member) or "") + (delta.get(member) or "")
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
    else:
        block.update({key: value for key, value in delta.items() if key != "type"})


def _chat_message(blocks: list[Members]) -> Members:
    """Return content in the shape of chat completions; what that cannot say is kept as it is."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Members] = []
    others: list[Members] = []
    for block in blocks:
        match block.get("type"):
            case "text":
                texts.append(block.get("text") or "")
            case "thinking":
                thoughts.append(block.get("thinking") or "")
            case "tool_use":
                function = {"name": block.get("name"), "arguments": _arguments(block)}
                calls.append({"id": block.get("id"), "type": "function", "function": function})
            case _:
                others.append(block)
    message: Members = {"role": "assistant", "content": "".join(texts)}
    if calls and not texts:
        message["content"] = None
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    if others:
        message["other_blocks"] = others
    return message


def _arguments(block: Members) -> str:
    streamed = block.get("partial_json")
    return streamed or json.dumps(block.get("input") or {}, ensure_ascii=False)


def _chat_usage(usage: Members) -> Members:
    """Return the counts under the names of chat completions, beside the server's own."""
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    prompt = (usage.get("input_tokens") or 0) + cached + written
    sampled = usage.get("output_tokens") or 0
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _read(data: bytes) -> Members:
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UpstreamError(f"The model server's answer is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UpstreamError("The model server's answer is not a JSON object.")
    return cast("Members", value)
