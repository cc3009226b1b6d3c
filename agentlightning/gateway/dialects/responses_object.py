"""The response object: what was asked, and the counts of tokens under their names in it."""

from __future__ import annotations

from agentlightning._internal.clock import now
from agentlightning.gateway.dialects.chat_parts import cached_tokens
from agentlightning.gateway.dialects.request_check import Members

__all__ = ["chat_usage", "new_response", "response_usage"]

_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
)


def new_response(response_id: str, request: Members, model: str) -> Members:
    """Return a response before its first item, with what was asked for.

    Args:
        response_id: Its id.
        request: The body of the request.
        model: The name that the client called the model by.
    """
    reasoning = request.get("reasoning") or {}
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(now()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "store": request.get("store") is not False,
        "text": {"format": {"type": "text"}, **(request.get("text") or {})},
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": request.get("tools") or [],
        "top_logprobs": request.get("top_logprobs") or 0,
        # What does not fit is an error, whatever was asked for.
        "truncation": "disabled",
        "usage": None,
        "metadata": request.get("metadata") or {},
        **{name: request.get(name) for name in _ECHOED},
    }


def response_usage(usage: Members) -> Members | None:
    """Return chat completions' counts as a response has them; None where there are none."""
    if not usage:
        return None
    details: Members = usage.get("completion_tokens_details") or {}
    prompt, sampled = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached_tokens(usage), "cache_write_tokens": 0},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": details.get("reasoning_tokens") or 0},
        "total_tokens": prompt + sampled,
    }


def chat_usage(usage: Members) -> Members:
    """Return a response's counts under the names of chat completions, beside its own."""
    prompt, sampled = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    given: Members = usage.get("input_tokens_details") or {}
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": given.get("cached_tokens") or 0},
    }
