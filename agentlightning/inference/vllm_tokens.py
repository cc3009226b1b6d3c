"""Completions of a vLLM server as the chat layer wants them: token ids in, token ids out.

Speaks `/v1/completions` with prompts of ids and `return_token_ids`. Which weights answer is decided
by the name that a call asks for; `vllm` says which name that is.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from agentlightning.engine.adapters import BASE, DEFAULT_ADAPTER
from agentlightning.engine.request import (
    FinishReason,
    Generation,
    TokenCallback,
    TokenEvent,
    check_prompt_ids,
)
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import (
    EngineError,
    RequestError,
    UpstreamError,
)
from agentlightning.inference.gate import Gate
from agentlightning.inference.vllm_server import VLLMServer

__all__ = ["ServedModel", "TokenCounts", "VLLMTokens"]

Body = dict[str, Any]

_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
_ID_PREFIX = "token_id:"

# What is not said, the server takes from the model's generation_config.json.
_PLAIN: Body = {
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@dataclass(slots=True, eq=False)
class ServedModel:
    """Weights that the server holds under a name."""

    name: str
    version: int
    running: int = 0
    """Calls that sample them now."""


@dataclass(slots=True)
class TokenCounts:
    """Tokens of all calls that came to their end."""

    prompt: int = 0
    cached_prompt: int = 0
    sampled: int = 0


@dataclass(slots=True)
class _Answer:
    """A completion as far as it has come."""

    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    top: list[tuple[tuple[int, float], ...]] = field(
        default_factory=list[tuple[tuple[int, float], ...]]
    )
    tops: int = 0
    """How many of the likeliest tokens were asked for."""
    finish_reason: FinishReason | None = None
    cached: int = 0

    def event(self, at: int, version: int) -> TokenEvent:
        """Return a token as callbacks get it."""
        is_last = at == len(self.token_ids) - 1
        return TokenEvent(
            self.token_ids[at],
            self.logprobs[at],
            version,
            self.top[at] if self.tops else (),
            self.finish_reason if is_last else None,
        )

    def end_at(self, length: int) -> None:
        """Forget what came after so many tokens, since the callback ended it there."""
        del self.token_ids[length:], self.logprobs[length:], self.top[length:]
        self.finish_reason = "stop"


class VLLMTokens:
    """Implements `engine.token_source.TokenSource` over HTTP."""

    def __init__(
        self,
        server: VLLMServer,
        tokenizer: Any,
        *,
        eos_ids: frozenset[int],
        vocabulary: int,
    ) -> None:
        """Prepare; nothing can be sampled before `ready`.

        Args:
            server: Where to ask.
            tokenizer: The model's tokenizer, equal to the server's.
            eos_ids: Ids that end a completion.
            vocabulary: Number of ids.
        """
        self.gate = Gate()
        """Closed while no call may begin."""
        self.counts = TokenCounts()
        self._server = server
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._vocabulary = vocabulary
        self._context = 0
        self._version = 0
        self._served: Mapping[str, ServedModel] = {}
        """By adapter; `BASE` is the model without any."""
        self._lock = threading.Lock()

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def context(self) -> int:
        return self._context

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos_ids

    @property
    def version(self) -> int:
        return self._version

    def ready(
        self, served: Mapping[str, ServedModel], *, version: int, context: int | None = None
    ) -> None:
        """Sample these weights from the next call on.

        Args:
            served: What to ask for, by adapter: `BASE` always, `DEFAULT_ADAPTER` if there is one.
            version: Of all of them together.
            context: Most tokens of prompt and completion together; None leaves it as it is.
        """
        with self._lock:
            self._served = served
            self._version = version
            self._context = context or self._context

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuse what does not fit; see `TokenSource.check_prompt`."""
        if not self._served:
            raise EngineError(f"{self._server.name} is not connected yet; call start() first")
        check_prompt_ids(ids, vocabulary=self._vocabulary, context=self._context)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_token: TokenCallback | None = None,
    ) -> Generation:
        """Sample one completion; see `TokenSource.generate`.

        With `on_token` the server streams; the callback runs in the calling event loop.
        """
        params = params or SamplingParams()
        self.check_prompt(prompt_ids)
        answer = _Answer(tops=params.top_logprobs)
        async with self.gate.passing():
            with self._asking(adapter) as served, self._blaming_the_server():
                body = self._body(prompt_ids, params, served.name)
                if on_token is None:
                    self._read(answer, await self._server.complete(body))
                else:
                    await self._stream(answer, body, served.version, on_token)
        return self._generation(prompt_ids, answer, served.version)

    @contextmanager
    def _asking(self, adapter: str | None) -> Generator[ServedModel]:
        """Hold on to the weights of this moment, so that nobody unloads them meanwhile."""
        with self._lock:
            if adapter is None:
                adapter = DEFAULT_ADAPTER if DEFAULT_ADAPTER in self._served else BASE
            served = self._served.get(adapter)
            if served is None:
                raise RequestError(
                    f"the model has no adapter {adapter!r}; it has {sorted(filter(None, self._served))}",
                    param="model",
                    status=404,
                    error_code="model_not_found",
                )
            served.running += 1
        try:
            yield served
        finally:
            with self._lock:
                served.running -= 1

    @contextmanager
    def _blaming_the_server(self) -> Generator[None]:
        """Keep the agent from being told that the model it asked for does not exist."""
        try:
            yield
        except RequestError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise UpstreamError(
                f"{self._server.name} lost the weights that it was given; was it restarted? {error}"
            ) from error

    async def _stream(
        self, answer: _Answer, body: Body, version: int, on_token: TokenCallback
    ) -> None:
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with aclosing(self._server.stream(asked)) as chunks:
            async for chunk in chunks:
                start = len(answer.token_ids)
                self._read(answer, chunk)
                for at in range(start, len(answer.token_ids)):
                    if on_token(answer.event(at, version)):
                        answer.end_at(at + 1)
                        return

    def _body(self, prompt_ids: Sequence[int], params: SamplingParams, model: str) -> Body:
        room = self._context - len(prompt_ids)
        ends = set(params.stop_token_ids) | (set() if params.ignore_eos else self._eos_ids)
        body: Body = {
            "model": model,
            "prompt": list(prompt_ids),
            "max_tokens": room if params.max_tokens is None else min(room, params.max_tokens),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": max(params.top_k, 0),
            "stop_token_ids": sorted(ends),
            "ignore_eos": params.ignore_eos,
            "logprobs": params.top_logprobs,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **_PLAIN,
        }
        if params.seed is not None:
            body["seed"] = _signed(params.seed)
        return body

    def _read(self, answer: _Answer, body: Body) -> None:
        """Add what a whole answer or a chunk of one says."""
        usage: Body = body.get("usage") or {}
        answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or (
            answer.cached
        )
        for choice in body["choices"]:
            ids: list[int] | None = choice.get("token_ids")
            told: Body = choice.get("logprobs") or {}
            values: list[float | None] = told.get("token_logprobs") or []
            if ids is None or len(values) != len(ids) or None in values:
                raise UpstreamError(
                    f"{self._server.name} does not tell the ids and log-probabilities of what it "
                    "samples; is it vLLM 0.10.2 or later?"
                )
            answer.token_ids += ids
            answer.logprobs += [value for value in values if value is not None]
            if answer.tops:
                answer.top += [_likeliest(it, answer.tops) for it in told["top_logprobs"]]
            reason: str | None = choice.get("finish_reason")
            if reason is not None:
                answer.finish_reason = _FINISHES.get(reason)

    def _generation(self, prompt_ids: Sequence[int], answer: _Answer, version: int) -> Generation:
        if answer.finish_reason is None:
            raise UpstreamError(f"{self._server.name} did not say how a completion ended.")
        sampled = len(answer.token_ids)
        with self._lock:
            self.counts.prompt += len(prompt_ids)
            self.counts.cached_prompt += answer.cached
            self.counts.sampled += sampled
        return Generation(
            prompt_ids=tuple(prompt_ids),
            token_ids=tuple(answer.token_ids),
            logprobs=tuple(answer.logprobs),
            versions=((0, sampled, version),) if sampled else (),
            finish_reason=answer.finish_reason,
            cached_prompt_tokens=answer.cached,
            top_logprobs=tuple(answer.top),
        )


def _likeliest(told: dict[str, float], count: int) -> tuple[tuple[int, float], ...]:
    """Return the likeliest tokens in order; the server tells the sampled one beside them."""
    ranked = sorted(told.items(), key=lambda item: -item[1])[:count]
    return tuple((int(name.removeprefix(_ID_PREFIX)), value) for name, value in ranked)


def _signed(seed: int) -> int:
    """Return a 64-bit seed as the signed number that the server's schema takes."""
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed
