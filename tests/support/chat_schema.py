"""OpenAI's own types of chat messages as a judge: what they do not allow is refused."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from openai.types import chat
from openai.types.chat.chat_completion_content_part_param import File
from pydantic import TypeAdapter

MESSAGES: dict[str, Any] = {
    "system": chat.ChatCompletionSystemMessageParam,
    "developer": chat.ChatCompletionDeveloperMessageParam,
    "user": chat.ChatCompletionUserMessageParam,
    "assistant": chat.ChatCompletionAssistantMessageParam,
    "tool": chat.ChatCompletionToolMessageParam,
}
PARTS: dict[str, Any] = {
    "text": chat.ChatCompletionContentPartTextParam,
    "image_url": chat.ChatCompletionContentPartImageParam,
    "input_audio": chat.ChatCompletionContentPartInputAudioParam,
    "file": File,
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _check(kind: Any, value: Mapping[str, Any]) -> None:
    assert isinstance(value, dict)
    assert value.keys() <= kind.__annotations__.keys(), value
    _adapter(kind).validate_python(value, strict=True)


def assert_valid_messages(messages: Sequence[Mapping[str, Any]], *, ends_open: bool = True) -> None:
    """Fail unless these are messages that chat completions accept, in an order that they accept.

    Args:
        messages: The messages.
        ends_open: Whether the last one may call tools; it has nothing behind it.
    """
    waiting: set[str] = set()
    for message in messages:
        role = message["role"]
        _check(MESSAGES[role], message)
        content = message.get("content")
        if isinstance(content, list):
            assert content
            allowed = PARTS if role == "user" else {"text": PARTS["text"]}
            for part in content:
                _check(allowed[part["type"]], part)
        if role == "tool":
            waiting.remove(message["tool_call_id"])
            continue
        assert not waiting, "calls without a result before the next message"
        calls = message.get("tool_calls", [])
        assert calls or content is not None
        for call in calls:
            _check(chat.ChatCompletionMessageFunctionToolCallParam, call)
            assert call["id"] not in waiting
            assert call["id"]
            assert call["function"]["name"]
            waiting.add(call["id"])
    assert ends_open or not waiting


def assert_valid_tools(tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Fail unless these are tool definitions that chat completions accept, or None."""
    for tool in tools or ():
        _check(chat.ChatCompletionFunctionToolParam, tool)
        assert tool["function"]["name"]
        assert isinstance(tool["function"]["parameters"], dict)
