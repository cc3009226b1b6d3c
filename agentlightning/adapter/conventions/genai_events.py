"""The GenAI convention that tells messages as events of the span, as of OpenTelemetry 1.28.

Written by Azure's and Google's instrumentations, and by Pydantic AI before its version 1.
"""

from typing import Any

from agentlightning.adapter.attribute_values import as_mapping, first_text, nested, parsed
from agentlightning.adapter.llm_call import LlmCall, read_usage
from agentlightning.types.tracer import Span

__all__ = ["read"]

_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_CHOICE = "gen_ai.choice"


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    messages: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for event in span.events:
        said = {key: parsed(value) for key, value in event.attributes.items()}
        said.update(as_mapping(said.pop("gen_ai.event.content", None)))
        if event.name == _CHOICE:
            answers.append(as_mapping(said.get("message")) or said)
        elif event.name in _ROLES:
            message = {"role": _ROLES[event.name], **said}
            if message["role"] == "tool":
                message.setdefault("tool_call_id", said.get("id"))
            messages.append(message)
    if not answers:
        return None
    attributes = span.attributes
    return LlmCall(
        convention="genai-events",
        messages=messages,
        answers=answers,
        request=as_mapping(nested(attributes, "gen_ai.request")),
        response=as_mapping(nested(attributes, "gen_ai.response")),
        usage=read_usage(attributes),
        response_id=first_text(attributes, ("gen_ai.response.id",)),
        model=first_text(attributes, ("gen_ai.request.model", "gen_ai.response.model")),
    )
