"""The body of a chat-completions request, checked: what the engine honours, and what it refuses.

A parameter that would change the answer and is not supported is refused rather than ignored;
parameters without influence on the answer (`user`, `metadata`, ...) pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import RequestError

__all__ = ["ChatRequest", "parse_chat_request"]

_T = TypeVar("_T")

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "repetition_penalty": (1, None),
    "min_p": (0, None),
    "logit_bias": ({}, None),
    "audio": (None,),
    "prediction": (None,),
    "functions": ([], None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
}
"""Parameters that the engine cannot honour, with the values that ask for nothing."""


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
    tools: tuple[dict[str, Any], ...]
    use_tools: bool
    """False under `tool_choice: "none"`: tools are rendered, calls are not looked for."""
    return_token_ids: bool
    template_kwargs: dict[str, Any]
    model: str | None


def parse_chat_request(body: Any) -> ChatRequest:
    """Check a decoded JSON body.

    Raises:
        RequestError: A field is missing, of the wrong type, out of range or not supported.
    """
    if not isinstance(body, Mapping):
        raise RequestError("the body must be a JSON object")
    for name, neutral in _NEUTRAL.items():
        if body.get(name) not in neutral:
            raise RequestError(
                f"{name} is not supported by the embedded engine; leave it out",
                error_code="unsupported_parameter",
                param=name,
            )
    tools = _objects(body, "tools")
    stream_options = _get(body, "stream_options", dict, {})
    return ChatRequest(
        messages=_messages(body),
        params=_sampling(body),
        n=_number(body, "n", 1, low=1, high=128, whole=True),
        stop=_stop(body),
        stream=_get(body, "stream", bool, default=False),
        include_usage=stream_options.get("include_usage") is True,
        logprobs=_get(body, "logprobs", bool, default=False),
        tools=tools,
        use_tools=_use_tools(body, tools),
        return_token_ids=_get(body, "return_token_ids", bool, default=False),
        template_kwargs=_get(body, "chat_template_kwargs", dict, {}),
        model=_get(body, "model", str, None),
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
    top_logprobs: int = _number(body, "top_logprobs", 0, low=0, high=20, whole=True)
    if top_logprobs and not body.get("logprobs"):
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    stop_ids = _get(body, "stop_token_ids", list, [])
    if not all(isinstance(item, int) for item in stop_ids):
        raise RequestError("stop_token_ids must be a list of integers", param="stop_token_ids")
    return SamplingParams(
        max_tokens=_number(body, limit, None, low=1, high=2**31, whole=True),
        temperature=_number(body, "temperature", 1.0, low=0, high=100),
        top_p=_number(body, "top_p", 1.0, low=1e-9, high=1),
        top_k=_number(body, "top_k", 0, low=-1, high=2**31, whole=True),
        seed=_number(body, "seed", None, low=-(2**63), high=2**64, whole=True),
        stop_token_ids=tuple(stop_ids),
        ignore_eos=_get(body, "ignore_eos", bool, default=False),
        top_logprobs=top_logprobs,
    )


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(item, str) and item for item in stops):
        raise RequestError("stop must be a non-empty string or a list of such", param="stop")
    return tuple(stops)


def _use_tools(body: Mapping[str, Any], tools: tuple[dict[str, Any], ...]) -> bool:
    choice = body.get("tool_choice")
    if choice in (None, "auto"):
        return bool(tools)
    if choice == "none":
        return False
    raise RequestError(
        "tool_choice may be auto or none: the embedded engine does not constrain what the model "
        "writes, since that would change the distribution it is trained on",
        error_code="unsupported_parameter",
        param="tool_choice",
    )


def _objects(body: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    items = _get(body, name, list, [])
    if not all(isinstance(item, dict) for item in items):
        raise RequestError(f"{name} must be a list of objects", param=name)
    return tuple(items)


def _get(body: Mapping[str, Any], name: str, kind: type[Any], default: _T) -> Any | _T:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(
            f"{name} must be of type {kind.__name__}, not {type(value).__name__}", param=name
        )
    return value


def _number(
    body: Mapping[str, Any],
    name: str,
    default: float | None,
    *,
    low: float,
    high: float,
    whole: bool = False,
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "an integer" if whole else "a number"
        raise RequestError(f"{name} must be {kind}, not {value!r}", param=name)
    if not low <= value <= high:
        raise RequestError(f"{name} must be between {low:g} and {high:g}, not {value}", param=name)
    return value
