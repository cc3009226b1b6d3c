"""OpenInference (Arize Phoenix): `openinference.span.kind` is `LLM`, messages under `llm.*`.

Its instrumentations also keep the whole answer as JSON in `output.value`: the response's id, and
token ids where the server sends them, are read from there.
"""

from collections.abc import Iterator
from typing import Any

from agentlightning.adapter.attribute_values import (
    as_items,
    as_mapping,
    first_text,
    nested,
    parsed,
)
from agentlightning.adapter.llm_call import LlmCall, ids_of_body, read_usage
from agentlightning.types.tracer import Span

__all__ = ["read"]


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    attributes = span.attributes
    if attributes.get("openinference.span.kind") != "LLM":
        return None
    body = _answer_body(as_mapping(parsed(attributes.get("output.value"))))
    asked = as_mapping(parsed(attributes.get("input.value")))
    request = as_mapping(parsed(attributes.get("llm.invocation_parameters")))
    tools = list(_tools(nested(attributes, "llm.tools")))
    if tools:
        request = {**request, "tools": tools}
    response = {
        "model": first_text(attributes, ("llm.response.model_name", "llm.model_name")),
        "finish_reason": attributes.get("llm.finish_reason"),
    }
    prompt_ids, response_ids, logprobs = ids_of_body(body)
    messages = [*_messages(nested(attributes, "llm.input_messages"))]
    return LlmCall(
        convention="openinference",
        messages=messages or as_items(asked.get("messages")),
        answers=[*_messages(nested(attributes, "llm.output_messages"))],
        request={key: value for key, value in request.items() if key != "messages"},
        response={key: value for key, value in response.items() if value is not None},
        usage=read_usage(attributes),
        response_id=first_text(body, ("id",)),
        model=first_text(attributes, ("llm.request.model_name", "llm.model_name")),
        prompt_token_ids=prompt_ids,
        response_token_ids=response_ids,
        logprobs=logprobs,
    )


def _answer_body(output: dict[str, Any]) -> dict[str, Any]:
    """Return the server's answer; LangChain keeps what it knows of it inside its own."""
    generations = as_items(output.get("generations"))
    first = as_items(generations[0]) if generations else []
    if not first:
        return output
    message = as_mapping(as_mapping(first[0]).get("message"))
    return as_mapping(as_mapping(message.get("kwargs") or message).get("response_metadata"))


def _tools(value: Any) -> Iterator[Any]:
    for item in as_items(value):
        schema = parsed(as_mapping(as_mapping(item).get("tool")).get("json_schema"))
        if isinstance(schema, dict):
            yield schema


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    for item in as_items(value):
        told = as_mapping(as_mapping(item).get("message"))
        if not told:
            continue
        message: dict[str, Any] = {"role": told.get("role"), "content": told.get("content")}
        parts = [*_parts(told.get("contents"))]
        if parts and message["content"] is None:
            only_text = len(parts) == 1 and parts[0].get("type") == "text"
            message["content"] = parts[0]["text"] if only_text else parts
        calls = [*_tool_calls(told.get("tool_calls"))]
        if calls:
            message["tool_calls"] = calls
        for key in ("tool_call_id", "name"):
            if key in told:
                message[key] = told[key]
        yield message


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    for item in as_items(value):
        part = as_mapping(as_mapping(item).get("message_content"))
        kind = part.get("type")
        if kind == "text":
            yield {"type": "text", "text": part.get("text", "")}
        elif kind == "image":
            url = as_mapping(as_mapping(part.get("image")).get("image")).get("url")
            yield {"type": "image_url", "image_url": {"url": url}}
        elif kind not in {"tool_use", None}:
            # Tool calls are among the message's `tool_calls` too.
            yield part


def _tool_calls(value: Any) -> Iterator[dict[str, Any]]:
    for item in as_items(value):
        call = as_mapping(as_mapping(item).get("tool_call"))
        function = as_mapping(call.get("function"))
        if function:
            yield {"id": call.get("id"), "type": "function", "function": function}
