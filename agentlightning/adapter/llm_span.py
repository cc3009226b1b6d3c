"""What the span of one model call says: ids, messages, parameters; whoever wrote the span.

Three writers are understood: our gateway (a call record), instrumented client libraries
(`gen_ai.*` attributes), and functions decorated with `operation`. Pure functions, total: what a
span does not say, or says in another shape, comes back empty.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agentlightning.adapter.calls import read_call
from agentlightning.semconv import CallAttributes, LightningSpanAttributes
from agentlightning.types.call import CallRecord
from agentlightning.types.rollout import Triplet
from agentlightning.types.tracer import Span
from agentlightning.utils.attributes import filter_and_unflatten_attributes

__all__ = [
    "image_urls",
    "integer_list",
    "is_record",
    "is_trainable",
    "nested",
    "response_id",
    "to_triplet",
]

_INPUT = LightningSpanAttributes.OPERATION_INPUT.value
_OUTPUT = LightningSpanAttributes.OPERATION_OUTPUT.value

_RESPONSE_ID_KEYS = (CallAttributes.RESPONSE_ID.value, f"{_OUTPUT}.id")
_PROMPT_ID_KEYS = (CallAttributes.PROMPT_TOKEN_IDS.value, f"{_OUTPUT}.prompt_token_ids")
_RESPONSE_TOKEN_KEYS = (
    CallAttributes.RESPONSE_TOKEN_IDS.value,
    f"{_OUTPUT}.response_token_ids.0",
    f"{_OUTPUT}.choices.0.token_ids",
    f"{_OUTPUT}.choices.0.provider_specific_fields.token_ids",
)
_LOGPROBS = "logprobs.content"
_ID_FIELDS = frozenset({"prompt_token_ids", "response_token_ids", "choices", "id"})


def is_record(span: Span) -> bool:
    """Return whether our gateway wrote the span."""
    return CallAttributes.RECORD.value in span.attributes


def is_trainable(span: Span) -> bool:
    """Return False for calls that our gateway says failed, or that are a judge's."""
    call = read_call(span)
    return call is None or (call.trained and call.outcome == "ok")


def response_id(span: Span) -> str | None:
    """Return the id that the model server gave its answer."""
    values = (span.attributes.get(key) for key in _RESPONSE_ID_KEYS)
    return next((value for value in values if isinstance(value, str) and value), None)


def nested(attributes: Mapping[str, Any], prefix: str) -> Any:
    """Return what is under `prefix`: nested, or the value itself, from JSON if it is that."""
    if prefix not in attributes:
        return filter_and_unflatten_attributes(attributes, prefix)
    value = attributes[prefix]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def integer_list(value: Any) -> list[int]:
    """Return a list of integers given as sequence or as JSON; anything else gives an empty one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    if isinstance(value, list | tuple):
        items = list(cast("Sequence[Any]", value))
        if all(type(item) is int for item in items):
            return items
    return []


def to_triplet(span: Span, agent_name: str) -> Triplet:
    """Return a call as prompt and response, with no reward yet.

    Args:
        span: The call's span.
        agent_name: Label of the agent that made the call.
    """
    call = read_call(span)
    return _from_attributes(span, agent_name) if call is None else _from_call(call, agent_name)


def _from_call(call: CallRecord, agent_name: str) -> Triplet:
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


def _from_attributes(span: Span, agent_name: str) -> Triplet:
    attributes = span.attributes
    ours = _mapping(nested(attributes, _INPUT))
    theirs = _mapping(nested(attributes, _OUTPUT))
    messages = nested(attributes, "gen_ai.prompt") or ours.get("messages", [])
    request = _mapping(nested(attributes, "gen_ai.request")) or ours
    response = _mapping(nested(attributes, "gen_ai.response")) or theirs
    answer: dict[str, Any] = {
        "token_ids": _first_ids(attributes, _RESPONSE_TOKEN_KEYS),
        "raw_content": nested(attributes, "gen_ai.completion") or theirs.get("choices", []),
    }
    if _LOGPROBS in attributes:
        answer["logprobs"] = nested(attributes, _LOGPROBS)
    return Triplet(
        prompt={
            "token_ids": _first_ids(attributes, _PROMPT_ID_KEYS),
            "raw_content": messages,
            "image_urls": image_urls(messages),
        },
        response=answer,
        metadata={
            "request": {key: value for key, value in request.items() if key != "messages"},
            "response": {k: v for k, v in response.items() if k not in _ID_FIELDS},
            "response_id": response_id(span),
            "agent_name": agent_name,
        },
    )


def image_urls(messages: Any) -> list[str]:
    """Return the URLs of all images in chat messages, in order; contents may be JSON texts."""
    urls: list[str] = []
    for message in _items(messages):
        content = _mapping(message).get("content")
        if isinstance(content, str) and content.lstrip().startswith("["):
            content = nested({"": content}, "")
        for part in _items(content):
            entry = _mapping(part)
            image = entry.get("image_url")
            url = image if isinstance(image, str) else _mapping(image).get("url")
            if entry.get("type") == "image_url" and isinstance(url, str):
                urls.append(url)
    return urls


def _first_ids(attributes: Mapping[str, Any], keys: Sequence[str]) -> list[int]:
    found = (integer_list(attributes.get(key)) for key in keys)
    return next((ids for ids in found if ids), [])


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
