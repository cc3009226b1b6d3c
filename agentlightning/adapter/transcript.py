"""Putting chat messages right: any input becomes messages that chat completion APIs accept."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

from agentlightning.adapter.attribute_values import as_mapping
from agentlightning.adapter.content import ITEM_KINDS, Content, Members, read_content

__all__ = ["normal_messages", "normal_tools"]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_OTHER_ROLES = {
    "human": "user",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "ipython": "tool",
}
_NO_PARAMETERS = {"type": "object", "properties": {}}


def normal_messages(prompt: Any, answer: Members, *, reasoning: bool = False) -> list[Members]:
    """Return prompt and answer as valid messages, the answer last and by the assistant.

    Missing roles are inferred from what the message holds and who spoke before. A tool result
    is tied to a call by its id, else to the oldest call still open, and stands behind it; one
    that answers no call is given as the user's, and a call without result gets an empty one.
    Parts are those that each role may hold; unknown ones become texts with their JSON.

    Args:
        prompt: A list of messages; anything else counts as none, a text as the user's.
        answer: The answer.
        reasoning: Keep what the assistant thought as `reasoning_content`, which is no member of
            OpenAI's messages but is read by chat templates.
    """
    conversation = _Conversation(reasoning)
    for raw in _prompt_messages(prompt):
        conversation.take(raw)
    conversation.take({**answer, "role": "assistant"}, is_answer=True)
    return conversation.messages()


class _Conversation:
    """Messages as they come in, with each tool result held by the call that it answers."""

    def __init__(self, reasoning: bool) -> None:
        self._reasoning = reasoning
        self._messages: list[Members] = []
        self._results: dict[int, dict[str, Any]] = {}
        """For each message with calls, by its place: id of the call to its result."""
        self._made_ids = 0
        self._previous: str | None = None
        self._thoughts: list[str] = []
        """Said in items of their own, as the API of responses does; the next answer's."""

    def take(self, raw: Members, *, is_answer: bool = False) -> None:
        """Add one message, which may hold tool results beside something else."""
        found = read_content(_content_of(raw))
        if _is_thought_only(raw, found) and not is_answer:
            self._thoughts += found.reasoning
            return
        role = _role(raw, found, self._previous)
        self._previous = role
        if not is_answer:
            for result in found.results:
                self._take_result(result["id"], result["content"])
        if role == "tool":
            if not found.results or found.parts:
                content = found.parts if _has_parts(raw) else raw.get("content")
                self._take_result(raw.get("tool_call_id"), content)
        elif role == "assistant":
            self._take_assistant(raw, found)
        elif found.parts or not found.results:
            self._add(raw, {"role": role, "content": _content(found, role)})

    def messages(self) -> list[Members]:
        """Return all messages, each call followed by its result; the last one's are open."""
        placed: list[Members] = []
        for place, message in enumerate(self._messages):
            placed.append(message)
            results = self._results.get(place, {})
            if place == len(self._messages) - 1:
                continue
            unanswered = [call["id"] for call in message.get("tool_calls", ())]
            unanswered = [call_id for call_id in unanswered if call_id not in results]
            for call_id, content in [*results.items(), *((each, "") for each in unanswered)]:
                placed.append({"role": "tool", "content": content, "tool_call_id": call_id})
        return placed

    def _take_result(self, call_id: Any, content: Any) -> None:
        open_calls = list(self._open_calls())
        if not isinstance(call_id, str) or not call_id:
            call_id = open_calls[0][1] if open_calls else None
        found = read_content(content)
        place = next((place for place, known in open_calls if known == call_id), None)
        if place is None or not isinstance(call_id, str):
            self._messages.append({"role": "user", "content": _content(found, "user")})
        else:
            self._results[place][call_id] = _content(found, "tool")

    def _open_calls(self) -> Iterator[tuple[int, str]]:
        for place, results in self._results.items():
            for call in self._messages[place]["tool_calls"]:
                if call["id"] not in results:
                    yield place, call["id"]

    def _take_assistant(self, raw: Members, found: Content) -> None:
        content = _content(found, "assistant")
        message: Members = {"role": "assistant", "content": content}
        calls = self._calls([*_listed_calls(raw), *found.calls])
        refusal = raw["refusal"] if isinstance(raw.get("refusal"), str) else found.refusal
        if refusal:
            message["refusal"] = refusal
        if calls:
            message["tool_calls"] = calls
            message["content"] = content or None
            self._results[len(self._messages)] = {}
        own, self._thoughts = [*self._thoughts, _thoughts(raw, found)], []
        thoughts = "\n".join(filter(None, own)) if self._reasoning else ""
        if thoughts:
            message["reasoning_content"] = thoughts
        self._add(raw, message)

    def _calls(self, raw_calls: Sequence[Members]) -> list[Members]:
        """Return the calls that name a function, in the API's shape, each with an id of its own."""
        calls: list[Members] = []
        taken: set[str] = set()
        for raw in raw_calls:
            name, arguments, call_id = raw.get("name"), raw.get("arguments"), raw.get("id")
            if not isinstance(name, str) or not name:
                continue
            while not isinstance(call_id, str) or not call_id or call_id in taken:
                call_id = f"call_{self._made_ids}"
                self._made_ids += 1
            taken.add(call_id)
            function = {"name": name, "arguments": _arguments(arguments)}
            calls.append({"id": call_id, "type": "function", "function": function})
        return calls

    def _add(self, raw: Members, message: Members) -> None:
        if isinstance(raw.get("name"), str) and raw["name"]:
            message["name"] = raw["name"]
        self._messages.append(message)


def _prompt_messages(prompt: Any) -> list[Members]:
    if isinstance(prompt, str) and prompt:
        return [{"role": "user", "content": prompt}]
    items = cast("list[Any]", prompt) if isinstance(prompt, list) else []
    return [
        cast("Members", item) if isinstance(item, dict) else {"content": item} for item in items
    ]


def _content_of(raw: Members) -> Any:
    """Return a message's content; an item without role, as of responses, is a part itself."""
    if _has_parts(raw):
        return raw["parts"]
    return [raw] if "role" not in raw and raw.get("type") in ITEM_KINDS else raw.get("content")


def _is_thought_only(raw: Members, found: Content) -> bool:
    said = found.parts or found.calls or found.results or found.refusal
    return raw.get("type") == "reasoning" and not said


def _has_parts(raw: Members) -> bool:
    return isinstance(raw.get("parts"), list) and raw.get("content") is None


def _role(raw: Members, found: Content, previous: str | None) -> str:
    role = raw.get("role")
    if isinstance(role, str):
        role = _OTHER_ROLES.get(role, role)
        if role in _ROLES:
            return role
    if found.calls or _listed_calls(raw):
        return "assistant"
    if raw.get("tool_call_id"):
        return "tool"
    return "assistant" if previous in {"user", "tool"} and not found.results else "user"


def _content(found: Content, role: str) -> str | list[Members]:
    """Return content that a role may have: a text, or a list of parts."""
    if role == "user":
        parts = found.parts
    else:
        parts = [p if p["type"] == "text" else _as_text(p) for p in found.parts]
    if not parts:
        return ""
    return parts[0]["text"] if found.is_text else parts


def _as_text(part: Members) -> Members:
    return {"type": "text", "text": json.dumps(part, ensure_ascii=False)}


def _listed_calls(raw: Members) -> list[Members]:
    listed = raw.get("tool_calls")
    legacy = as_mapping(raw.get("function_call"))
    entries = cast("list[Any]", listed) if isinstance(listed, list) else []
    if isinstance(listed, dict):
        entries = [listed]
    calls: list[Members] = []
    for entry in map(as_mapping, [*entries, legacy]):
        function = as_mapping(entry.get("function")) or entry
        arguments = function.get("arguments", function.get("input"))
        calls.append({"id": entry.get("id"), "name": function.get("name"), "arguments": arguments})
    return [call for call in calls if isinstance(call["name"], str) and call["name"]]


def _arguments(arguments: Any) -> str:
    if arguments is None:
        return "{}"
    return arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)


def _thoughts(raw: Members, found: Content) -> str:
    said = raw.get("reasoning_content") or raw.get("reasoning")
    return said if isinstance(said, str) else "\n".join(filter(None, found.reasoning))


def normal_tools(request: Any) -> list[Members] | None:
    """Return the tool definitions of a request in the API's shape; None when there are none.

    Args:
        request: An object with `tools` in the API's shape, or `functions` as instrumented
            clients write them.
    """
    fields = as_mapping(request)
    raw = fields.get("tools") or fields.get("functions")
    tools: list[Members] = []
    for item in cast("Sequence[Any]", raw) if isinstance(raw, list) else ():
        entry = as_mapping(item)
        function = as_mapping(entry.get("function")) or entry
        name, description = function.get("name"), function.get("description")
        if not isinstance(name, str) or not name:
            continue
        definition: Members = {"name": name, "parameters": _parameters(function)}
        if isinstance(description, str):
            definition["description"] = description
        if isinstance(function.get("strict"), bool):
            definition["strict"] = function["strict"]
        tools.append({"type": "function", "function": definition})
    return tools or None


def _parameters(function: Members) -> Members:
    schema = function.get("parameters", function.get("input_schema"))
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError:
            schema = None
    return as_mapping(schema) or dict(_NO_PARAMETERS)
