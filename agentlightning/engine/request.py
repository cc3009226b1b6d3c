"""What goes into the engine and what comes out: requests, token events, generations.

Plain data; it neither samples nor waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import ContextLengthError, RequestError

__all__ = [
    "FinishReason",
    "Generation",
    "Request",
    "TokenCallback",
    "TokenEvent",
    "check_prompt_ids",
]

FinishReason = Literal["stop", "length", "abort"]
"""`stop`: an end token, or a callback asked for it; `length`: no room; `abort`: the engine
stopped before the completion was done."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token."""

    token_id: int
    logprob: float
    version: int
    """Version of the weights that sampled it."""
    top: tuple[tuple[int, float], ...] = ()
    """Likeliest tokens with their log-probabilities, as many as were asked for."""
    finish_reason: FinishReason | None = None
    """Set on the last token, unless the callback itself ends the completion there."""


TokenCallback = Callable[[TokenEvent], bool | None]
"""Called in the engine's thread for every token; True ends the completion with `stop`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished completion."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Sampled ids; an end-of-sequence id, if sampled, is the last one."""
    logprobs: tuple[float, ...]
    """Aligned with `token_ids`."""
    versions: tuple[tuple[int, int, int], ...]
    """Runs of tokens from one version of the weights: (start, length, version)."""
    finish_reason: FinishReason
    cached_prompt_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache or a batch mate."""
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Per token, when asked for."""


def check_prompt_ids(ids: Sequence[int], *, vocabulary: int, context: int) -> None:
    """Refuse a prompt that nothing can be sampled behind.

    Args:
        ids: The prompt.
        vocabulary: Number of ids.
        context: Most tokens of prompt and completion together.

    Raises:
        ContextLengthError: The prompt leaves no room for a single token.
        RequestError: The prompt is empty or holds an id outside the vocabulary.
    """
    if not ids:
        raise RequestError("the prompt is empty; send at least one token", param="messages")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise RequestError(
            f"the prompt holds a token id outside 0..{vocabulary - 1}; was it made with another "
            "tokenizer?",
            param="messages",
        )
    if len(ids) >= context:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens and this model's context is {context}, completion "
            "included; shorten the messages",
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """A completion in the making; owned by the sampler until `on_done` or `on_error`."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    """64 bits; drawn by the engine when the caller gave none."""
    stop_ids: frozenset[int]
    """Every id that ends the completion."""
    max_tokens: int
    on_done: Callable[[Generation], None]
    on_error: Callable[[BaseException], None]
    on_token: TokenCallback | None = None
    adapter: str | None = None
    """None: `adapters.DEFAULT_ADAPTER` if the model has it, else the base, as `adapters.BASE`."""
    cancelled: bool = False
    """Set by anyone at any time; the sampler drops the request before its next step."""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    versions: list[int] = field(default_factory=list[int])
    top: list[tuple[tuple[int, float], ...]] = field(
        default_factory=list[tuple[tuple[int, float], ...]]
    )
    cached_prompt_tokens: int = 0

    def finish(self, reason: FinishReason) -> None:
        """Hand the completion as it stands to `on_done`."""
        self.on_done(
            Generation(
                prompt_ids=self.prompt_ids,
                token_ids=tuple(self.token_ids),
                logprobs=tuple(self.logprobs),
                versions=_runs(self.versions),
                finish_reason=reason,
                cached_prompt_tokens=self.cached_prompt_tokens,
                top_logprobs=tuple(self.top),
            )
        )


def _runs(versions: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    runs: list[tuple[int, int, int]] = []
    for index, version in enumerate(versions):
        if runs and runs[-1][2] == version:
            start, length, _ = runs[-1]
            runs[-1] = (start, length + 1, version)
        else:
            runs.append((index, 1, version))
    return tuple(runs)
