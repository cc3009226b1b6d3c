"""Our own operations that are model calls: messages go in, choices (or content) come out.

So are functions decorated with `operation` that return a completion, and Weave's calls.
"""

from typing import Any

from agentlightning.adapter.attribute_values import as_items, as_mapping, first_ids, nested
from agentlightning.adapter.llm_call import PROMPT_ID_KEYS, RESPONSE_ID_KEYS, LlmCall, read_usage
from agentlightning.semconv import LightningSpanAttributes
from agentlightning.types.tracer import Span

__all__ = ["read"]

_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value
_PROMPT_KEYS = (*PROMPT_ID_KEYS, f"{_OUTPUT}.prompt_token_ids")
_RESPONSE_KEYS = (
    *RESPONSE_ID_KEYS,
    f"{_OUTPUT}.response_token_ids.0",
    f"{_OUTPUT}.choices.0.token_ids",
    f"{_OUTPUT}.choices.0.provider_specific_fields.token_ids",
)
_NO_RESPONSE = frozenset({"prompt_token_ids", "response_token_ids", "choices", "id"})


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    attributes = span.attributes
    if not any(key.startswith(_OUTPUT) for key in attributes):
        return None
    given = as_mapping(nested(attributes, _INPUT))
    result = as_mapping(nested(attributes, _OUTPUT))
    answers = as_items(result.get("choices"))
    if not answers and result.get("role") == "assistant":
        answers = [{key: result.get(key) for key in ("role", "content")}]
    if not answers:
        return None
    usage = {k: v for k, v in as_mapping(result.get("usage")).items() if type(v) is int}
    return LlmCall(
        convention="operation",
        messages=as_items(given.get("messages")),
        answers=answers,
        request=given,
        response={key: value for key, value in result.items() if key not in _NO_RESPONSE},
        usage=read_usage(attributes) or _chat_usage(usage),
        response_id=_text(result.get("id")),
        model=_text(given.get("model")) or _text(result.get("model")),
        prompt_token_ids=first_ids(attributes, _PROMPT_KEYS),
        response_token_ids=first_ids(attributes, _RESPONSE_KEYS),
        logprobs=nested(attributes, "logprobs.content") or None,
    )


def _chat_usage(usage: dict[str, int]) -> dict[str, int]:
    renamed = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    return {renamed.get(name, name): count for name, count in usage.items()}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
