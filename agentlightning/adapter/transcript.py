"""Putting chat messages right: any input becomes messages that chat completion APIs accept."""

import json
from collections.abc import Sequence
from typing import Any, cast

__all__ = ["normal_messages", "normal_tools"]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_NO_PARAMETERS = {"type": "object", "properties": {}}


def normal_messages(prompt: Any, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return prompt and answer as valid messages, the answer last and by the assistant.

    Missing roles are inferred from what the message holds and who spoke before. A tool result
    is tied to a call by its id, else to the oldest call still open; one that answers no call is
    given as the user's. Whatever is no string and no list of content parts becomes JSON.

    Args:
        prompt: A list of messages; anything else counts as none, a text as the user's.
        answer: The answer.
    """
    messages: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for raw in _prompt_messages(prompt):
        message = _normal_message(raw, messages[-1]["role"] if messages else None)
        if message["role"] == "tool" and not _close_call(message, open_calls):
            message = {"role": "user", "content": message["content"]}
        open_calls.extend(call["id"] for call in message.get("tool_calls", ()))
        messages.append(message)
    messages.append(_normal_message({**answer, "role": "assistant"}, None))
    return messages


def _prompt_messages(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str) and prompt:
        return [{"role": "user", "content": prompt}]
    items = cast("list[Any]", prompt) if isinstance(prompt, list) else []
    return [
        cast("dict[str, Any]", item) if isinstance(item, dict) else {"content": item}
        for item in items
    ]


def _normal_message(raw: dict[str, Any], previous: str | None) -> dict[str, Any]:
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        role = _inferred_role(raw, previous)
    message: dict[str, Any] = {"role": role, "content": _content(raw.get("content"))}
    if role == "assistant":
        calls = _tool_calls(raw.get("tool_calls"))
        if calls:
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
    if role == "tool":
        message["tool_call_id"] = raw.get("tool_call_id")
    if isinstance(raw.get("name"), str) and raw["name"]:
        message["name"] = raw["name"]
    return message


def _inferred_role(raw: dict[str, Any], previous: str | None) -> str:
    if raw.get("tool_calls"):
        return "assistant"
    if raw.get("tool_call_id") or raw.get("role") == "function":
        return "tool"
    return "assistant" if previous in {"user", "tool"} else "user"


def _close_call(message: dict[str, Any], open_calls: list[str]) -> bool:
    """Tie a tool result to an open call, and return whether there was one."""
    call_id = message["tool_call_id"]
    if not isinstance(call_id, str) or not call_id:
        call_id = open_calls[0] if open_calls else None
    if call_id not in open_calls:
        return False
    open_calls.remove(call_id)
    message["tool_call_id"] = call_id
    return True


def _content(content: Any) -> str | list[dict[str, Any]]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(map(_is_part, cast("list[Any]", content))):
        return cast("list[dict[str, Any]]", content)
    return json.dumps(content, default=str)


def _is_part(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(cast("dict[str, Any]", part).get("type"), str)


def _tool_calls(raw: Any) -> list[dict[str, Any]]:
    """Return the calls that name a function, in the API's shape; ids are made where missing."""
    calls: list[dict[str, Any]] = []
    for index, item in enumerate(cast("Sequence[Any]", raw) if isinstance(raw, list) else ()):
        entry = _mapping(item)
        function = _mapping(entry.get("function")) or entry
        name, arguments = function.get("name"), function.get("arguments", "{}")
        if not isinstance(name, str) or not name:
            continue
        call_id = entry.get("id")
        calls.append(
            {
                "id": call_id if isinstance(call_id, str) and call_id else f"call_{index}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": arguments
                    if isinstance(arguments, str)
                    else json.dumps(arguments, default=str),
                },
            }
        )
    return calls


def normal_tools(request: Any) -> list[dict[str, Any]] | None:
    """Return the tool definitions of a request in the API's shape; None when there are none.

    Args:
        request: An object with `tools` in the API's shape, or `functions` as instrumented
            clients write them.
    """
    fields = _mapping(request)
    raw = fields.get("tools") or fields.get("functions")
    tools: list[dict[str, Any]] = []
    for item in cast("Sequence[Any]", raw) if isinstance(raw, list) else ():
        entry = _mapping(item)
        function = _mapping(entry.get("function")) or entry
        name, description = function.get("name"), function.get("description")
        if not isinstance(name, str) or not name:
            continue
        definition: dict[str, Any] = {"name": name, "parameters": _parameters(function)}
        if isinstance(description, str):
            definition["description"] = description
        tools.append({"type": "function", "function": definition})
    return tools or None


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters", function.get("input_schema"))
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError:
            schema = None
    return _mapping(schema) or dict(_NO_PARAMETERS)


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
