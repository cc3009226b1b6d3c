"""Deprecated enums of span and attribute names; `agentlightning.semconv` replaces them."""

from enum import StrEnum

from agentlightning import semconv
from agentlightning.semconv import LightningResourceAttributes


class SpanNames(StrEnum):
    """Compat 0.3.0: span names, and the resource keys that were kept beside them."""

    REWARD = semconv.AGL_REWARD
    MESSAGE = semconv.AGL_MESSAGE
    OBJECT = semconv.AGL_OBJECT
    EXCEPTION = semconv.AGL_EXCEPTION
    VIRTUAL = semconv.AGL_VIRTUAL
    ROLLOUT_ID = LightningResourceAttributes.ROLLOUT_ID.value
    ATTEMPT_ID = LightningResourceAttributes.ATTEMPT_ID.value
    SPAN_SEQUENCE_ID = LightningResourceAttributes.SPAN_SEQUENCE_ID.value


class SpanAttributeNames(StrEnum):
    """Compat 0.3.0: attribute keys of the first span format."""

    MESSAGE = "message"
    OBJECT = "object"
