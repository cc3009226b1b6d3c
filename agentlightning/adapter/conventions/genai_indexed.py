"""The GenAI convention of before: one attribute per message, `gen_ai.prompt.<i>.<part>`.

Written by AgentOps, and by the OpenTelemetry (OpenLLMetry) instrumentations before 0.50.
"""

from typing import Any

from agentlightning.adapter.attribute_values import as_mapping, first_ids, first_text, nested
from agentlightning.adapter.llm_call import (
    PROMPT_ID_KEYS,
    RESPONSE_ID_KEYS,
    LlmCall,
    read_usage,
)
from agentlightning.types.tracer import Span

__all__ = ["read", "read_any"]

_CALL_TYPES = frozenset({"chat", "completion"})
_TYPE_KEYS = ("gen_ai.request.type", "llm.request.type")
_PREFIXES = ("gen_ai.prompt.", "gen_ai.completion.")
_MODEL_KEYS = ("gen_ai.request.model", "gen_ai.response.model")


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    return read_any(span) if _is_call(span.attributes) else None


def read_any(span: Span) -> LlmCall:
    """Return what the span says in this convention's keys, be it a call or not."""
    attributes = span.attributes
    response = as_mapping(nested(attributes, "gen_ai.response"))
    return LlmCall(
        convention="genai-indexed",
        messages=nested(attributes, "gen_ai.prompt"),
        answers=nested(attributes, "gen_ai.completion"),
        request=as_mapping(nested(attributes, "gen_ai.request")),
        response=response,
        usage=read_usage(attributes),
        response_id=first_text(attributes, ("gen_ai.response.id",)),
        model=first_text(attributes, _MODEL_KEYS),
        prompt_token_ids=first_ids(attributes, PROMPT_ID_KEYS),
        response_token_ids=first_ids(attributes, RESPONSE_ID_KEYS),
        logprobs=nested(attributes, "logprobs.content") or None,
    )


def _is_call(attributes: dict[str, Any]) -> bool:
    kind = attributes.get("agentops.span.kind")
    if isinstance(kind, str) and kind not in {"llm", "client"}:
        return False
    asked = first_text(attributes, _TYPE_KEYS)
    if asked is not None:
        return asked in _CALL_TYPES
    if PROMPT_ID_KEYS[0] in attributes and RESPONSE_ID_KEYS[0] in attributes:
        return True
    # The prefixes with their dot: `gen_ai.completion_tokens` and the like are something else.
    told = any(key.startswith(_PREFIXES) for key in attributes)
    return told and any(key in attributes for key in (*_MODEL_KEYS, "gen_ai.response.id"))
