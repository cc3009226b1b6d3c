"""One model call as a span tells it, whatever convention the span follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentlightning.adapter.attribute_values import as_mapping, first_ids, first_number
from agentlightning.semconv import CallAttributes

__all__ = ["LlmCall", "read_usage"]

PROMPT_ID_KEYS = (CallAttributes.PROMPT_TOKEN_IDS.value,)
RESPONSE_ID_KEYS = (CallAttributes.RESPONSE_TOKEN_IDS.value,)

_PROMPT_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
)
_COMPLETION_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
)
_TOTAL_TOKENS = ("gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """What a span says about one call; what it does not say is empty."""

    convention: str
    """Who wrote it so: `genai`, `genai-indexed`, `openinference`, `litellm` or `operation`."""
    messages: Any = field(default_factory=list[Any])
    """The prompt, as a list of messages in (or close to) the shape of chat completions."""
    answers: Any = field(default_factory=list[Any])
    """The answers, likewise; most writers keep the first choice only."""
    request: dict[str, Any] = field(default_factory=dict[str, Any])
    """Parameters; tool definitions as `tools`, or as `functions` where the writer says so."""
    response: dict[str, Any] = field(default_factory=dict[str, Any])
    """Model, finish reason and what else is told about the answer."""
    usage: dict[str, int] = field(default_factory=dict[str, int])
    """`prompt_tokens`, `completion_tokens`, `total_tokens`, as far as they are told."""
    response_id: str | None = None
    model: str | None = None
    """Name that the client asked for, or else the one that answered."""
    prompt_token_ids: list[int] = field(default_factory=list[int])
    response_token_ids: list[int] = field(default_factory=list[int])
    """Of the first choice."""
    logprobs: Any = None
    """Entries of the first choice's tokens, in the shape of chat completions."""


def read_usage(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of tokens, whichever convention names them."""
    prompt = first_number(attributes, _PROMPT_TOKENS)
    completion = first_number(attributes, _COMPLETION_TOKENS)
    total = first_number(attributes, _TOTAL_TOKENS)
    if total is None and prompt is not None and completion is not None:
        total = prompt + completion
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return {name: count for name, count in counts.items() if count is not None}


def ids_of_body(body: Mapping[str, Any]) -> tuple[list[int], list[int], Any]:
    """Return prompt ids, first choice's ids and log-probabilities of a chat completion's JSON."""
    choices = body.get("choices")
    first = as_mapping(choices[0]) if isinstance(choices, list) and choices else {}
    extra = as_mapping(first.get("provider_specific_fields"))
    response_ids = first_ids(first, ("token_ids",)) or first_ids(extra, ("token_ids",))
    listed = body.get("response_token_ids")
    if not response_ids and isinstance(listed, list) and listed:
        response_ids = first_ids({"ids": listed[0]}, ("ids",)) or first_ids(
            {"ids": listed}, ("ids",)
        )
    logprobs = as_mapping(first.get("logprobs")).get("content")
    return first_ids(body, ("prompt_token_ids",)), response_ids, logprobs
