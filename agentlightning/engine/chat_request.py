"""The body of a chat-completions request, checked: what the engine honours, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentlightning.engine.request_fields import (
    Neutral,
    read_body,
    read_member,
    read_number,
    read_sampling,
    read_stop,
)
from agentlightning.engine.sampling import SamplingParams
from agentlightning.engine.tool_choice import ToolChoice, read_tool_choice
from agentlightning.errors import RequestError

__all__ = ["ChatRequest", "parse_chat_request"]

_NEUTRAL: Neutral = {
    "audio": (None,),
    "prediction": (None,),
    "functions": ([], None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request that the engine can serve."""

    messages: tuple[dict[str, Any], ...]
    params: SamplingParams
    n: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    logprobs: bool
    tool_choice: ToolChoice
    """The tools, too."""
    return_token_ids: bool
    include_reasoning: bool
    """False leaves the reasoning out of the answer, as vLLM does; its tokens are told."""
    separate_reasoning: bool
    """False leaves it in the content, markers and all, as SGLang does."""
    template_kwargs: dict[str, Any]
    model: str | None


def parse_chat_request(body: Any) -> ChatRequest:
    """Check a decoded JSON body.

    Raises:
        RequestError: A field is missing, of the wrong type, out of range or not supported.
    """
    body = read_body(body, _NEUTRAL)
    stream_options = read_member(body, "stream_options", dict, {})
    return ChatRequest(
        messages=_messages(body),
        params=_sampling(body),
        n=read_number(body, "n", 1, low=1, high=128, whole=True),
        stop=read_stop(body),
        stream=read_member(body, "stream", bool, default=False),
        include_usage=stream_options.get("include_usage") is True,
        logprobs=read_member(body, "logprobs", bool, default=False),
        tool_choice=read_tool_choice(body, _objects(body, "tools")),
        return_token_ids=read_member(body, "return_token_ids", bool, default=False),
        include_reasoning=read_member(body, "include_reasoning", bool, default=True),
        separate_reasoning=read_member(body, "separate_reasoning", bool, default=True),
        template_kwargs=read_member(body, "chat_template_kwargs", dict, {}),
        model=read_member(body, "model", str, None),
    )


def _messages(body: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    messages = _objects(body, "messages")
    if not messages:
        raise RequestError("messages must be a list with at least one message", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise RequestError(
                f"messages[{index}] has no role; give system, user, assistant or tool",
                param=f"messages[{index}].role",
            )
    return messages


def _sampling(body: Mapping[str, Any]) -> SamplingParams:
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    top_logprobs: int = read_number(body, "top_logprobs", 0, low=0, high=20, whole=True)
    if top_logprobs and not body.get("logprobs"):
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return read_sampling(body, limit=limit, top_logprobs=top_logprobs)


def _objects(body: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    items = read_member(body, name, list, [])
    if not all(isinstance(item, dict) for item in items):
        raise RequestError(f"{name} must be a list of objects", param=name)
    return tuple(items)
