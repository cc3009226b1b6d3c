"""LiteLLM's record of the provider's own request and answer: `llm.<provider>.<member>`.

The spans around them, which LiteLLM names `litellm_request`, follow the GenAI convention.
"""

import re
from typing import Any

from agentlightning.adapter.attribute_values import as_items, as_mapping, first_text, literal
from agentlightning.adapter.llm_call import LlmCall, ids_of_body
from agentlightning.types.tracer import Span

__all__ = ["read"]

_MESSAGES_KEY = re.compile(r"llm\.(?P<provider>[a-z0-9_]+)\.messages")
_ANSWER_MEMBERS = frozenset(
    {"id", "object", "created", "choices", "usage", "prompt_token_ids", "response_token_ids"}
    | {"messages"}
)


def read(span: Span) -> LlmCall | None:
    """Return the call, or None when the span is none by this convention."""
    found = next(filter(None, map(_MESSAGES_KEY.fullmatch, span.attributes)), None)
    if found is None:
        return None
    prefix = f"llm.{found['provider']}."
    body = {
        key.removeprefix(prefix): _value(value)
        for key, value in span.attributes.items()
        if key.startswith(prefix)
    }
    choices = [as_mapping(choice) for choice in as_items(body.get("choices"))]
    prompt_ids, response_ids, logprobs = ids_of_body(body)
    usage = {k: v for k, v in as_mapping(body.get("usage")).items() if type(v) is int}
    finish = choices[0].get("finish_reason") if choices else None
    return LlmCall(
        convention="litellm",
        messages=as_items(body.get("messages")),
        answers=[as_mapping(choice.get("message")) for choice in choices],
        request={key: value for key, value in body.items() if key not in _ANSWER_MEMBERS},
        response={"finish_reason": finish} if finish else {},
        usage=usage,
        response_id=first_text(body, ("id",)),
        model=first_text(body, ("model",)),
        prompt_token_ids=prompt_ids,
        response_token_ids=response_ids,
        logprobs=logprobs,
    )


def _value(value: Any) -> Any:
    """Return a list or dict that is written as a Python literal; other texts as they are."""
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        return literal(value)
    return value
