"""OpenTelemetry's GenAI convention as of 1.37: messages as JSON in `gen_ai.*.messages`.

Written by today's OpenTelemetry (OpenLLMetry) instrumentations, LiteLLM, Logfire, and by SDKs
that trace themselves, such as Anthropic's, whose spans carry no messages.
"""

import json
from collections.abc import Iterator
from typing import Any

from agentlightning.adapter.attribute_values import (
    as_items,
    as_mapping,
    first_ids,
    first_text,
    nested,
    parsed,
)
from agentlightning.adapter.llm_call import (
    PROMPT_ID_KEYS,
    RESPONSE_ID_KEYS,
    LlmCall,
    read_usage,
)
from agentlightning.types.tracer import Span

__all__ = ["chat_messages", "read"]

_OPERATIONS = frozenset(
    {"chat", "text_completion", "generate_content", "responses", "completion"}
    | {"acompletion", "atext_completion", "aresponses"}
)
"""Operations that are model calls; the second line is how LiteLLM writes them."""

_THOUGHTS = frozenset({"reasoning", "thinking"})
_NO_CONTENT = _THOUGHTS | {"tool_call", "tool_call_response"}


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    attributes = span.attributes
    operation = attributes.get("gen_ai.operation.name")
    if operation is None:
        if "gen_ai.output.messages" not in attributes:
            return None
    elif not isinstance(operation, str) or operation not in _OPERATIONS:
        return None
    system = chat_messages([{"role": "system", "parts": _json(attributes, "system_instructions")}])
    answers = chat_messages(_json(attributes, "output.messages"))
    request = as_mapping(nested(attributes, "gen_ai.request"))
    tools = as_items(_json(attributes, "tool.definitions"))
    if tools:
        request = {**request, "tools": tools}
    elif functions := nested(attributes, "llm.request.functions"):
        request = {**request, "functions": functions}
    return LlmCall(
        convention="genai",
        messages=[
            *(message for message in system if message["content"]),
            *chat_messages(_json(attributes, "input.messages")),
        ],
        answers=_with_function_call(answers, nested(attributes, "gen_ai.completion")),
        request=request,
        response=as_mapping(nested(attributes, "gen_ai.response")),
        usage=read_usage(attributes),
        response_id=first_text(attributes, ("gen_ai.response.id",)),
        model=first_text(attributes, ("gen_ai.request.model", "gen_ai.response.model")),
        prompt_token_ids=first_ids(attributes, PROMPT_ID_KEYS),
        response_token_ids=first_ids(attributes, RESPONSE_ID_KEYS),
    )


def _json(attributes: dict[str, Any], name: str) -> Any:
    return parsed(attributes.get(f"gen_ai.{name}"))


def chat_messages(value: Any) -> list[dict[str, Any]]:
    """Return messages made of typed parts in the shape of chat completions.

    Results of tools become messages of their own; a message without parts stays as it is.
    """
    return [made for item in as_items(value) for made in _from_parts(as_mapping(item))]


def _from_parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "parts" not in message:
        if message:
            yield message
        return
    parts = [as_mapping(part) for part in as_items(message["parts"])]
    results = [_tool_result(part) for part in parts if part.get("type") == "tool_call_response"]
    calls = [_tool_call(part) for part in parts if part.get("type") == "tool_call"]
    thoughts = [str(part.get("content", "")) for part in parts if part.get("type") in _THOUGHTS]
    content = [_content_part(part) for part in parts if part.get("type") not in _NO_CONTENT]
    yield from results
    if results and not (content or calls):
        return
    made: dict[str, Any] = {"role": message.get("role"), "content": _joined(content)}
    if thoughts:
        made["reasoning_content"] = "".join(thoughts)
    if calls:
        made["tool_calls"] = calls
    if message.get("finish_reason"):
        made["finish_reason"] = message["finish_reason"]
    yield made


def _joined(content: list[dict[str, Any]]) -> Any:
    """Return a text where there is one part of text, nothing where there is no part."""
    if not content:
        return None
    if len(content) == 1 and content[0].get("type") == "text":
        return content[0].get("text")
    return content


def _content_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("content", part.get("text", ""))}
    if kind == "uri" and part.get("modality", "image") == "image":
        return {"type": "image_url", "image_url": {"url": part.get("uri")}}
    if kind == "blob" and part.get("modality", "image") == "image":
        data = part.get("content", part.get("data"))
        url = f"data:{part.get('mime_type', 'image/png')};base64,{data}"
        return {"type": "image_url", "image_url": {"url": url}}
    return part


def _tool_call(part: dict[str, Any]) -> dict[str, Any]:
    arguments = part.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    function = {"name": part.get("name"), "arguments": arguments}
    return {"id": part.get("id"), "type": "function", "function": function}


def _tool_result(part: dict[str, Any]) -> dict[str, Any]:
    result = part.get("response", part.get("result", part.get("content")))
    if not isinstance(result, str):
        result = json.dumps(result, ensure_ascii=False, default=str)
    return {"role": "tool", "tool_call_id": part.get("id"), "content": result}


def _with_function_call(answers: list[dict[str, Any]], older: Any) -> list[dict[str, Any]]:
    """Add tool calls that LiteLLM leaves out of the messages and writes in the older keys."""
    for answer, item in zip(answers, as_items(older), strict=False):
        call = as_mapping(as_mapping(item).get("function_call"))
        if call.get("name") and not answer.get("tool_calls"):
            answer["tool_calls"] = [{"type": "function", "function": call}]
    return answers
