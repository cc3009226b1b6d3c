"""Semantic conventions: every span name and attribute key that this package writes or reads.

The strings are those of 0.3.0 and never change; keys added since live in `CallAttributes` and
at the end of the other classes. This module holds names and two tiny models, no behaviour.
"""

from enum import StrEnum

from pydantic import BaseModel

__all__ = [
    "AGL_ANNOTATION",
    "AGL_EXCEPTION",
    "AGL_MESSAGE",
    "AGL_OBJECT",
    "AGL_OPERATION",
    "AGL_REWARD",
    "AGL_VIRTUAL",
    "CallAttributes",
    "LightningResourceAttributes",
    "LightningSpanAttributes",
    "LinkAttributes",
    "LinkPydanticModel",
    "RewardAttributes",
    "RewardPydanticModel",
]

AGL_ANNOTATION = "agentlightning.annotation"
AGL_MESSAGE = "agentlightning.message"
AGL_OBJECT = "agentlightning.object"
AGL_EXCEPTION = "agentlightning.exception"
AGL_OPERATION = "agentlightning.operation"
AGL_REWARD = "agentlightning.reward"
AGL_VIRTUAL = "agentlightning.virtual"


class LightningResourceAttributes(StrEnum):
    """Keys of the OpenTelemetry resource (or span) that attribute a span to its rollout."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    """An int, or its decimal string."""
    TRACER_NAME = "agentlightning.tracer.name"


class LightningSpanAttributes(StrEnum):
    """Keys and key prefixes of span attributes."""

    REWARD = "agentlightning.reward"
    """Prefix of `RewardAttributes`, indexed by dimension; index 0 is the primary one."""
    LINK = "agentlightning.link"
    """Prefix of `LinkAttributes`, indexed."""
    TAG = "agentlightning.tag"
    """Prefix, indexed; the value is the tag."""
    MESSAGE_BODY = "agentlightning.message.body"
    OBJECT_TYPE = "agentlightning.object.type"
    OBJECT_LITERAL = "agentlightning.object.literal"
    OBJECT_JSON = "agentlightning.object.json"
    OPERATION_NAME = "agentlightning.operation.name"
    OPERATION_INPUT = "agentlightning.operation.input"
    """Prefix, then the parameter's name."""
    OPERATION_OUTPUT = "agentlightning.operation.output"
    """Prefix or value."""
    LATE = "agentlightning.late"
    """True on a span that arrived after its attempt had ended or been taken away."""


class RewardAttributes(StrEnum):
    """Last part of `agentlightning.reward.<i>.<part>`."""

    REWARD_NAME = "name"
    REWARD_VALUE = "value"
    NAME = REWARD_NAME
    VALUE = REWARD_VALUE


class LinkAttributes(StrEnum):
    """Last part of `agentlightning.link.<i>.<part>`."""

    KEY_MATCH = "key_match"
    """An attribute key to match, or the reserved `trace_id` / `span_id`."""
    VALUE_MATCH = "value_match"


class CallAttributes(StrEnum):
    """Keys of a span that records one captured model call (see `types.call.CallRecord`)."""

    RECORD = "agentlightning.call"
    """The whole record as JSON, less the fields that have keys of their own."""
    PROMPT_TOKEN_IDS = "prompt_token_ids"
    RESPONSE_TOKEN_IDS = "response_token_ids"
    """Ids of the first choice; those of all choices are in the record."""
    REQUEST_MODEL = "gen_ai.request.model"
    RESPONSE_ID = "gen_ai.response.id"
    INPUT_MESSAGES = "gen_ai.input.messages"
    OUTPUT_MESSAGES = "gen_ai.output.messages"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    AGENT_NAME = "agent.name"
    MISSING = "agentlightning.call.missing"
    """What an answer that came to its end lacks for training: names of `CallRecord.missing`."""


class RewardPydanticModel(BaseModel):
    """One dimension of a reward as read from a span."""

    name: str
    value: float


class LinkPydanticModel(BaseModel):
    """One link as read from a span: an attribute key and the value it must have."""

    key_match: str
    value_match: str
