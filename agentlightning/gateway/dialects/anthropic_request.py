"""An Anthropic request as a request for chat completions: its parameters and its tools."""

from __future__ import annotations

from typing import Any

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.anthropic_blocks import to_chat_messages
from agentlightning.gateway.dialects.chat_request import SAMPLING, Parameters, let_think, tools_of
from agentlightning.gateway.dialects.request_check import (
    Members,
    Neutral,
    check_members,
    effort_of,
    read_object,
    read_text,
    refuse,
)

__all__ = ["to_chat_request"]

_WITHOUT_INFLUENCE = {
    "metadata",
    "service_tier",
    "inference_geo",
    "speed",
    "diagnostics",
    "billing_policy",
    "fallback_credit_token",
}
"""Parameters that change no answer: who is asked, how soon, and who pays."""

_NEUTRAL: Neutral = {
    "mcp_servers": ([],),
    "fallbacks": ([],),
    "context_management": (
        {},
        {"edits": []},
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    ),
}
_TOOL_MEMBERS = {"name", "description", "input_schema", "strict", "eager_input_streaming"}
_TOOL_NEUTRAL: Neutral = {
    "allowed_callers": (["direct"], []),
    "defer_loading": (False,),
    "input_examples": ([],),
}


def to_chat_request(request: Members, *, trained: bool) -> Members:
    """Return what to ask of a server of chat completions.

    Args:
        request: The body of `POST /v1/messages`, or of `…/count_tokens`.
        trained: The model's template takes `enable_thinking` from us; other servers would
            refuse the parameter.

    Raises:
        RequestError: It asks for something that chat completions cannot do.
    """
    if request.get("thread") is not None:
        # The code lets Anthropic's clients send the whole conversation instead.
        raise RequestError(
            "thread: conversations are not kept here. Send all messages.",
            error_code="thread_unsupported_request",
            param="thread",
        )
    messages = to_chat_messages(request.get("system"), request.get("messages"))
    chat = _PARAMETERS.convert(request, messages)
    if trained and request.get("thinking") is not None:
        thinking = read_object("thinking", request["thinking"])
        let_think(chat, thinking.get("type") != "disabled")
    return chat


def _stops(stops: Any) -> Members:
    return {"stop": stops} if stops else {}


def _tools(tools: Any) -> Members:
    return tools_of(tools, _function)


def _function(where: str, tool: Members) -> Members:
    kind = tool.get("type")
    if kind not in {None, "custom"}:
        refuse(
            where,
            f"{kind!r} is a tool that only Anthropic's models know. Describe it with a name, a "
            "description and an input_schema",
        )
    check_members(where, tool, _TOOL_MEMBERS, _TOOL_NEUTRAL)
    function: Members = {"name": read_text(where, tool, "name")}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = read_object(f"{where}.input_schema", tool.get("input_schema"))
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return function


def _tool_choice(value: Any) -> Members:
    choice = read_object("tool_choice", value)
    check_members("tool_choice", choice, {"name", "disable_parallel_tool_use"}, {})
    said: Members = {}
    match choice.get("type"):
        case "auto" | "none" as same:
            said["tool_choice"] = same
        case "any":
            said["tool_choice"] = "required"
        case "tool" if isinstance(choice.get("name"), str):
            said["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
        case _:
            refuse("tool_choice", "must be of type auto, any, none, or tool with a name")
    if choice.get("disable_parallel_tool_use"):
        said["parallel_tool_calls"] = False
    return said


def _output_config(value: Any) -> Members:
    config = read_object("output_config", value)
    check_members("output_config", config, {"effort", "format"}, {})
    said: Members = {}
    if config.get("effort") is not None:
        said["reasoning_effort"] = effort_of("output_config.effort", config["effort"])
    if config.get("format") is not None:
        said.update(_output_format(config["format"]))
    return said


def _output_format(value: Any) -> Members:
    wanted = read_object("output_config.format", value)
    if wanted.get("type") != "json_schema":
        refuse("output_config.format.type", "must be json_schema")
    check_members("output_config.format", wanted, {"schema"}, {})
    schema = read_object("output_config.format.schema", wanted.get("schema"))
    described = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


_PARAMETERS = Parameters(
    same=SAMPLING | {"max_tokens"},
    converters={
        "stop_sequences": _stops,
        "tools": _tools,
        "tool_choice": _tool_choice,
        "output_config": _output_config,
        "output_format": _output_format,
    },
    others=frozenset({"system", "messages", "thinking"} | _WITHOUT_INFLUENCE),
    neutral=_NEUTRAL,
)
