"""LiteLLM: its OpenTelemetry spans say token ids, where the server sends them."""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from agentlightning.instrumentation.patches import Patch, Patches, require_library
from agentlightning.semconv import CallAttributes

__all__ = ["instrument_litellm", "uninstrument_litellm"]

_MODULE = "litellm.integrations.opentelemetry"


def instrument_litellm() -> None:
    """Add token ids to the spans of LiteLLM's `otel` callback.

    LiteLLM is not imported for it: if your program has not, it waits for that. It may be called
    several times, and lasts until `uninstrument_litellm` was called as often.

    Raises:
        ConfigurationError: LiteLLM is not installed.
    """
    require_library("litellm")
    _PATCHES.use()


def uninstrument_litellm() -> None:
    """Undo one `instrument_litellm`; harmless when there was none."""
    _PATCHES.release()


def _patches() -> Iterator[Patch]:
    writer = importlib.import_module(_MODULE).OpenTelemetry
    yield writer, "set_attributes", _with_ids


_PATCHES = Patches(_patches, after=_MODULE)


def _with_ids(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def set_attributes(self: Any, span: Any, kwargs: Any, response_obj: Any) -> None:
        original(self, span, kwargs, response_obj)
        body = response_obj.model_dump() if hasattr(response_obj, "model_dump") else response_obj
        span.set_attributes(_ids(body) if isinstance(body, dict) else {})

    return set_attributes


def _ids(body: dict[str, Any]) -> dict[str, list[int]]:
    """Return the token ids of an answer as attributes, without those that it does not have."""
    choices = body.get("choices") or [{}]
    specific = choices[0].get("provider_specific_fields") or {}
    listed = body.get("response_token_ids") or [None]
    response_ids = listed[0] or choices[0].get("token_ids") or specific.get("token_ids")
    prompt_ids = body.get("prompt_token_ids")
    found = {
        CallAttributes.PROMPT_TOKEN_IDS.value: prompt_ids,
        CallAttributes.RESPONSE_TOKEN_IDS.value: response_ids,
    }
    return {key: value for key, value in found.items() if isinstance(value, list)}
