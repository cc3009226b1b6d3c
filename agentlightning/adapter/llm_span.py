"""What the span of one model call says: ids, messages, parameters; whoever wrote the span.

A span is a model call when its attributes say so by one of the conventions that we know, or when
our gateway wrote it; its name decides nothing. Pure functions, total: what a span does not say,
or says in another shape, comes back empty.
"""

from typing import Any

from agentlightning.adapter.attribute_values import (
    as_items,
    as_mapping,
    parsed,
)
from agentlightning.adapter.call_record import read_call
from agentlightning.adapter.conventions import (
    genai,
    genai_indexed,
    litellm,
    openinference,
    operation,
)
from agentlightning.adapter.llm_call import LlmCall
from agentlightning.semconv import CallAttributes, LightningSpanAttributes
from agentlightning.types.call import CallRecord
from agentlightning.types.rollout import Triplet
from agentlightning.types.tracer import Span

__all__ = [
    "image_urls",
    "is_llm_call",
    "is_record",
    "is_trainable",
    "read_llm_call",
    "response_id",
    "to_triplet",
]

_READERS = (openinference.read, genai.read, genai_indexed.read, litellm.read, operation.read)
_RESPONSE_ID_KEYS = (
    CallAttributes.RESPONSE_ID.value,
    f"{LightningSpanAttributes.OPERATION_OUTPUT.value}.id",
)
_ID_FIELDS = frozenset({"prompt_token_ids", "response_token_ids", "choices", "id"})


def is_record(span: Span) -> bool:
    """Return whether our gateway wrote the span."""
    return CallAttributes.RECORD.value in span.attributes


def read_llm_call(span: Span) -> LlmCall | None:
    """Return what a client's span says about a model call.

    None for spans that are no model calls by any convention, and for our gateway's, which
    `calls.read_call` reads.
    """
    if is_record(span):
        return None
    calls = (read(span) for read in _READERS)
    return next((call for call in calls if call is not None), None)


def is_llm_call(span: Span) -> bool:
    """Return whether the span is a model call: our gateway's, or one by convention."""
    return is_record(span) or read_llm_call(span) is not None


def is_trainable(span: Span) -> bool:
    """Return False for calls that our gateway says failed, were not answered, or are a judge's."""
    call = read_call(span)
    return call is None or (call.trained and call.outcome == "ok" and bool(call.choices))


def response_id(span: Span) -> str | None:
    """Return the id that the model server gave its answer."""
    values = (span.attributes.get(key) for key in _RESPONSE_ID_KEYS)
    plain = next((value for value in values if isinstance(value, str) and value), None)
    if plain is not None or is_record(span):
        return plain
    call = read_llm_call(span)
    return call.response_id if call is not None else None


def to_triplet(span: Span, agent_name: str) -> Triplet:
    """Return a call as prompt and response, with no reward yet.

    Args:
        span: The call's span; one that is none gives a triplet of what little it says.
        agent_name: Label of the agent that made the call.
    """
    record = read_call(span)
    if record is not None:
        return _from_record(record, agent_name)
    call = read_llm_call(span) or genai_indexed.read_any(span)
    return _from_call(call, response_id(span), agent_name)


def _from_record(call: CallRecord, agent_name: str) -> Triplet:
    messages = call.request.get("messages", [])
    first = call.choices[0] if call.choices else None
    response: dict[str, Any] = {
        "token_ids": first.token_ids if first else [],
        "raw_content": [choice.message for choice in call.choices if choice.message is not None],
    }
    if first and first.logprobs:
        response["logprobs"] = [{"logprob": value} for value in first.logprobs]
    finish = first.finish_reason if first else None
    return Triplet(
        prompt={
            "token_ids": call.prompt_token_ids,
            "raw_content": messages,
            "image_urls": image_urls(messages),
        },
        response=response,
        metadata={
            "request": {k: v for k, v in call.request.items() if k != "messages"},
            "response": {"model": call.model, "usage": call.usage, "finish_reason": finish},
            "response_id": call.response_id,
            "agent_name": call.role or agent_name,
        },
    )


def _from_call(call: LlmCall, answer_id: str | None, agent_name: str) -> Triplet:
    answer: dict[str, Any] = {"token_ids": call.response_token_ids, "raw_content": call.answers}
    if call.logprobs is not None:
        answer["logprobs"] = call.logprobs
    response = {key: value for key, value in call.response.items() if key not in _ID_FIELDS}
    if call.usage and "usage" not in response:
        response["usage"] = call.usage
    return Triplet(
        prompt={
            "token_ids": call.prompt_token_ids,
            "raw_content": call.messages,
            "image_urls": image_urls(call.messages),
        },
        response=answer,
        metadata={
            "request": {key: value for key, value in call.request.items() if key != "messages"},
            "response": response,
            "response_id": answer_id,
            "agent_name": agent_name,
        },
    )


def image_urls(messages: Any) -> list[str]:
    """Return the URLs of all images in chat messages, in order; contents may be JSON texts."""
    urls: list[str] = []
    for message in as_items(messages):
        content = as_mapping(message).get("content")
        if isinstance(content, str) and content.lstrip().startswith("["):
            content = parsed(content)
        for part in as_items(content):
            entry = as_mapping(part)
            image = entry.get("image_url")
            url = image if isinstance(image, str) else as_mapping(image).get("url")
            if entry.get("type") == "image_url" and isinstance(url, str):
                urls.append(url)
    return urls
