"""Rendering a conversation into text and token ids, by the tokenizer's own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.errors import ConfigurationError, RequestError

__all__ = ["encode", "plain_messages", "render_prompt", "render_text"]


def render_prompt(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the ids of a conversation followed by the head of the assistant's next message.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: In the shape of OpenAI's chat completions.
        tools: Likewise.
        template_kwargs: Further variables of the template, for instance `enable_thinking`.

    Raises:
        RequestError: The messages hold something other than text, or the template refuses them.
        ConfigurationError: The tokenizer has no chat template.
    """
    text = render_text(
        tokenizer, plain_messages(messages), tools=tools, template_kwargs=template_kwargs
    )
    return encode(tokenizer, text)


def render_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    template_kwargs: Mapping[str, Any] | None = None,
    generation_head: bool = True,
) -> str:
    """Return a conversation as the template writes it.

    Args:
        tokenizer: A Hugging Face tokenizer with a chat template.
        messages: As `plain_messages` gives them.
        tools: In the shape of OpenAI's chat completions.
        template_kwargs: Further variables of the template.
        generation_head: Whether the head of the assistant's next message follows.

    Raises:
        RequestError: The template refuses the messages.
        ConfigurationError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "this model's tokenizer has no chat template; load an instruction-tuned model, or set "
            "tokenizer.chat_template",
        )
    from jinja2.exceptions import TemplateError

    def render(given: Sequence[Mapping[str, Any]]) -> str:
        return tokenizer.apply_chat_template(
            list(given),
            tools=list(tools) or None,
            add_generation_prompt=generation_head,
            tokenize=False,
            **(template_kwargs or {}),
        )

    try:
        try:
            return render(messages)
        except TypeError:
            # Some templates join the arguments of calls to their text, and fail on objects.
            if not any(message.get("tool_calls") for message in messages):
                raise
            return render([_with_text_arguments(message) for message in messages])
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise RequestError(
            f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a rendered text, markers read as the special tokens they are."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as templates expect them: contents strings, arguments objects.

    Raises:
        RequestError: They hold something other than text, or malformed tool calls.
    """
    return [_plain(index, message) for index, message in enumerate(messages)]


def _plain(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as templates expect it: content a string, arguments an object."""
    plain = {key: value for key, value in message.items() if value is not None}
    plain["content"] = _text(index, message.get("content"))
    calls = message.get("tool_calls")
    if calls:
        plain["tool_calls"] = [_with_object(index, call) for call in calls]
    return plain


def _with_text_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a plain message with the arguments of its calls as JSON."""
    calls: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or ():
        arguments = call["function"].get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls} if calls else message


def _text(index: int, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise RequestError(
                f"messages[{index}].content holds something other than text; this model reads "
                "text only",
                param=f"messages[{index}].content",
            )
        parts.append(text)
    return "".join(parts)


def _with_object(index: int, call: Any) -> dict[str, Any]:
    """Return a tool call whose arguments are an object if they are one in JSON."""
    function: Any = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(
            f"messages[{index}].tool_calls needs function.name", param=f"messages[{index}]"
        )
    arguments: Any = function.get("arguments")
    if isinstance(arguments, str):
        try:
            decoded: Any = json.loads(arguments)
        except ValueError:
            decoded = None
        # Templates write an object as JSON; a string that is none goes through as it is.
        arguments = decoded if isinstance(decoded, dict) else arguments
    return {**call, "function": {**function, "arguments": arguments}}
