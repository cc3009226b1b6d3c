"""Anthropic messages to a server that speaks them: bytes pass as they are, and are captured."""

from __future__ import annotations

import json
from typing import cast

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.anthropic_request import to_chat_request
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.chat_parts import assistant_message, read_answer
from agentlightning.gateway.dialects.native import NativeExchange
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.models import ModelRoute
from agentlightning.types.call import CallChoice

__all__ = ["NativeMessageExchange"]

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


class NativeMessageExchange(NativeExchange):
    """One call that the upstream answers in the client's own format."""

    path = "/v1/messages"

    def __init__(self, request: Members, body: bytes, route: ModelRoute) -> None:
        trained = route.trained
        super().__init__(request, body, route, lambda: to_chat_request(request, trained=trained))
        self._message: Members = {}
        self._blocks: dict[int, Members] = {}
        self._over = False

    def take_whole(self, body: bytes) -> bytes:
        message = read_answer(body)
        if not isinstance(message.get("content"), list):
            raise UpstreamError("The model server's answer is not an Anthropic message.")
        self._message = message
        self._blocks = dict(enumerate(cast("list[Members]", message["content"])))
        return body

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
    return assistant_message(texts, thoughts, calls, other_blocks=others)


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
