"""Spans to chat transcripts, in the shape that OpenAI's fine-tuning takes. Total: any spans go."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, cast

from agentlightning.adapter.base import TraceAdapter, own_spans
from agentlightning.adapter.calls import read_call
from agentlightning.adapter.llm_span import is_record, nested, response_id
from agentlightning.adapter.transcript import normal_messages, normal_tools
from agentlightning.types.call import CallRecord
from agentlightning.types.tracer import Span, SpanLike

__all__ = [
    "OpenAIMessages",
    "TraceToMessages",
    "convert_to_openai_messages",
    "group_genai_dict",
]


class OpenAIMessages(TypedDict):
    """One transcript that ends with the answer to be learnt."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None


class TraceToMessages(TraceAdapter[list[OpenAIMessages]]):
    """Makes one transcript of every model call: its prompt, then its first answer.

    Calls without an answer, and those that the gateway marked as untrained or failed, are left
    out; of several spans of one call the gateway's counts. Rewards play no part.
    """

    def adapt(self, source: Sequence[SpanLike], /) -> list[OpenAIMessages]:
        """Return the transcripts in the order of the spans."""
        spans = own_spans(source)
        recorded = {response_id(span) for span in spans if is_record(span)} - {None}
        return convert_to_openai_messages(
            _read(span, spans)
            for span in spans
            if is_record(span) or response_id(span) not in recorded
        )


def group_genai_dict(data: dict[str, Any], prefix: str) -> Any:
    """Return what flat attributes hold under `prefix`, nested; an empty dict if nothing.

    Example:
        >>> group_genai_dict({"gen_ai.prompt.0.role": "user"}, "gen_ai.prompt")
        [{'role': 'user'}]
    """
    return nested(data, prefix)


def convert_to_openai_messages(calls: Iterable[dict[str, Any]]) -> list[OpenAIMessages]:
    """Return transcripts of calls that were read from spans.

    Args:
        calls: For each call what its attributes say: `prompt` and `completion` (messages),
            `request` (with `functions`, or `tools`), `tools` (the calls of the answer).
    """
    transcripts: list[OpenAIMessages] = []
    for call in calls:
        answers = call.get("completion")
        if isinstance(answers, dict) and answers:
            answers = [answers]
        if not isinstance(answers, list) or not answers:
            continue
        answer = {"role": "assistant", **_mapping(answers[0])}
        if call.get("tools") and not answer.get("tool_calls"):
            answer["tool_calls"] = call["tools"]
        tools = normal_tools(call.get("request"))
        transcripts.append(
            OpenAIMessages(messages=normal_messages(call.get("prompt"), answer), tools=tools)
        )
    return transcripts


def _read(span: Span, spans: Sequence[Span]) -> dict[str, Any]:
    """Return what one span says about a call; without a completion when it is none."""
    call = read_call(span)
    if call is not None:
        return _from_call(call)
    completion = nested(span.attributes, "gen_ai.completion")
    if not completion:
        return {}
    return {
        "prompt": nested(span.attributes, "gen_ai.prompt"),
        "completion": completion,
        "request": nested(span.attributes, "gen_ai.request"),
        "response": nested(span.attributes, "gen_ai.response"),
        "tools": [
            _tool_call(child)
            for child in spans
            if child.parent_id == span.span_id and "tool.name" in child.attributes
        ],
    }


def _from_call(call: CallRecord) -> dict[str, Any]:
    usable = call.trained and call.outcome == "ok"
    answers = [choice.message for choice in call.choices if choice.message] if usable else []
    return {
        "prompt": call.request.get("messages"),
        "completion": answers,
        "request": {"tools": call.request.get("tools")},
    }


def _tool_call(span: Span) -> dict[str, Any]:
    read = span.attributes.get
    arguments = read("tool.parameters", "{}")
    return {
        "id": read("tool.call.id"),
        "type": read("tool.call.type", "function"),
        "function": {
            "name": read("tool.name"),
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        },
    }


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
