"""A Responses request as a request for chat completions: its parameters and its tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentlightning.gateway.dialects.chat_request import SAMPLING, Parameters, let_think, tools_of
from agentlightning.gateway.dialects.request_check import (
    Members,
    Neutral,
    check_members,
    effort_of,
    read_list,
    read_object,
    read_text,
    refuse,
)
from agentlightning.gateway.dialects.responses_items import Item, to_chat_messages

__all__ = ["LOGPROBS", "SEALED_THOUGHTS", "includes", "to_chat_request"]

LOGPROBS = "message.output_text.logprobs"
SEALED_THOUGHTS = "reasoning.encrypted_content"

_WITHOUT_INFLUENCE = {
    "metadata",
    "store",
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "background_options",
    # Of built-in tools, of which there are none.
    "max_tool_calls",
}
"""Parameters that change no answer: who is asked and who asks, how soon, and what is kept."""

_ELSEWHERE = {"input", "instructions", "previous_response_id", "top_logprobs"}
"""Parameters that are dealt with, though not one by one."""

_NEUTRAL: Neutral = {"background": (False,), "context_management": ([],), "image": ({},)}
_INCLUDES = (
    LOGPROBS,
    SEALED_THOUGHTS,
    # Of built-in tools, of which there are none.
    "web_search_call.action.sources",
    "web_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
)
_TOOL_MEMBERS = {"name", "description", "parameters", "strict"}
_TOOL_NEUTRAL: Neutral = {
    "allowed_callers": (["direct"], []),
    "async": (False,),
    "defer_loading": (False,),
}
_SUMMARIES = ("auto", "concise", "detailed")


def to_chat_request(request: Members, items: Sequence[Item], *, trained: bool) -> Members:
    """Return what to ask of a server of chat completions.

    Args:
        request: The body of `POST /v1/responses`.
        items: Its input behind what came before it.
        trained: The model's template takes `enable_thinking` from us; other servers would
            refuse the parameter.

    Raises:
        RequestError: It asks for something that chat completions cannot do.
    """
    instructions = request.get("instructions")
    if instructions is not None:
        read_text("", request, "instructions")
    chat = _PARAMETERS.convert(request, to_chat_messages(instructions, items))
    if "tools" not in chat:
        # Servers refuse what is said about tools where there are none.
        chat = {key: value for key, value in chat.items() if key not in _OF_TOOLS}
    if includes(request, LOGPROBS):
        chat["logprobs"] = True
        if request.get("top_logprobs"):
            chat["top_logprobs"] = request["top_logprobs"]
    effort = chat.get("reasoning_effort")
    if trained and effort is not None:
        let_think(chat, effort != "none")
        if effort == "none":
            del chat["reasoning_effort"]
    return chat


def includes(request: Members, wanted: str) -> bool:
    """Return whether a request wants something included in its answer."""
    return wanted in (request.get("include") or [])


def _include(value: Any) -> Members:
    for at, wanted in enumerate(read_list("include", value)):
        if wanted not in _INCLUDES:
            refuse(f"include.{at}", f"{wanted!r} cannot be had here")
    return {}


def _limit(value: Any) -> Members:
    return {"max_tokens": value}


def _tools(tools: Any) -> Members:
    return tools_of(tools, _function)


def _function(where: str, tool: Members) -> Members:
    kind = tool.get("type")
    if kind != "function":
        refuse(
            where,
            f"{kind!r} is a tool that only OpenAI's own models can use. Describe it as a function",
        )
    check_members(where, tool, _TOOL_MEMBERS, _TOOL_NEUTRAL)
    read_text(where, tool, "name")
    return {key: value for key, value in tool.items() if key in _TOOL_MEMBERS and value is not None}


def _tool_choice(value: Any) -> Members:
    if value in ("auto", "none", "required"):
        return {"tool_choice": value}
    choice = read_object("tool_choice", value)
    match choice.get("type"):
        case "function":
            check_members("tool_choice", choice, {"name"}, {})
            return {"tool_choice": _named("tool_choice", choice)}
        case "allowed_tools":
            check_members("tool_choice", choice, {"mode", "tools"}, {})
            tools = enumerate(read_list("tool_choice.tools", choice.get("tools")))
            named = [_named(f"tool_choice.tools.{at}", tool) for at, tool in tools]
            allowed = {"mode": choice.get("mode"), "tools": named}
            return {"tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}
        case _:
            return refuse(
                "tool_choice", "must be auto, none, required, or of type function or allowed_tools"
            )


def _named(where: str, value: Any) -> Members:
    tool = read_object(where, value)
    if tool.get("type") != "function":
        refuse(where, "must be of type function")
    return {"type": "function", "function": {"name": read_text(where, tool, "name")}}


def _parallel(value: Any) -> Members:
    return {"parallel_tool_calls": value}


def _text(value: Any) -> Members:
    text = read_object("text", value)
    check_members("text", text, {"format", "verbosity"}, {})
    said: Members = {}
    if text.get("verbosity") not in (None, "medium"):
        said["verbosity"] = text["verbosity"]
    if text.get("format") is None:
        return said
    wanted = read_object("text.format", text["format"])
    match wanted.get("type"):
        case "text":
            pass
        case "json_object":
            said["response_format"] = {"type": "json_object"}
        case "json_schema":
            check_members("text.format", wanted, {"name", "schema", "strict", "description"}, {})
            schema = {key: value for key, value in wanted.items() if key != "type"}
            said["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            refuse("text.format.type", "must be text, json_object or json_schema")
    return said


def _reasoning(value: Any) -> Members:
    reasoning = read_object("reasoning", value)
    neutral: Neutral = {"context": ("auto",), "mode": ("standard",)}
    check_members("reasoning", reasoning, {"effort", "summary", "generate_summary"}, neutral)
    for key in ("summary", "generate_summary"):
        if reasoning.get(key) not in (None, *_SUMMARIES):
            refuse(f"reasoning.{key}", f"must be one of {', '.join(_SUMMARIES)}")
    effort = reasoning.get("effort")
    if effort in (None, "none"):
        return {"reasoning_effort": effort} if effort else {}
    return {"reasoning_effort": effort_of("reasoning.effort", effort)}


def _truncation(value: Any) -> Members:
    # With `auto`, what does not fit may be cut; here it is an error, which cuts nothing.
    if value not in ("auto", "disabled"):
        refuse("truncation", "must be auto or disabled")
    return {}


def _stream_options(value: Any) -> Members:
    check_members(
        "stream_options", read_object("stream_options", value), {"include_obfuscation"}, {}
    )
    return {}


_OF_TOOLS = frozenset({"tool_choice", "parallel_tool_calls"})
_PARAMETERS = Parameters(
    same=SAMPLING | {"stop"},
    converters={
        "include": _include,
        "max_output_tokens": _limit,
        "parallel_tool_calls": _parallel,
        "reasoning": _reasoning,
        "stream_options": _stream_options,
        "text": _text,
        "tool_choice": _tool_choice,
        "tools": _tools,
        "truncation": _truncation,
    },
    others=frozenset(_WITHOUT_INFLUENCE | _ELSEWHERE),
    neutral=_NEUTRAL,
)
