"""OpenAI's completions over an engine: prompts as text or as token ids in, texts out.

Several prompts may come in one request; their choices follow one another. Token ids and weight
versions travel as `gateway.upstream` describes. HTTP is `service`'s work.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from agentlightning._internal.clock import now
from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.choice_sampler import ChoiceSampler, told_ids, usage_of
from agentlightning.engine.request_fields import (
    Neutral,
    read_body,
    read_member,
    read_number,
    read_sampling,
    read_stop,
    refuse_parameter,
)
from agentlightning.engine.sampling import SamplingParams
from agentlightning.engine.token_source import TokenSource
from agentlightning.engine.token_text import TokenText
from agentlightning.errors import RequestError

__all__ = ["CompletionService"]

Body = dict[str, Any]

_NEUTRAL: Neutral = {
    "echo": (False, None),
    "suffix": ("", None),
    "prompt_logprobs": (None,),
    "prompt_embeds": (None,),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (False, None),
}
_DEFAULT_LIMIT = 16
"""Tokens of an answer where the request does not say; OpenAI's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    prompts: list[list[int]]
    """One for each choice."""
    params: SamplingParams
    n: int
    stop: tuple[str, ...]
    include_usage: bool
    logprobs: bool
    return_token_ids: bool
    model: str | None


class CompletionService:
    """Completions of one engine; its methods may run in any event loop."""

    def __init__(self, engine: TokenSource, *, model: str) -> None:
        """Serve `engine`.

        Args:
            engine: A started engine, or what else samples.
            model: Name in answers to requests that name none.
        """
        self._engine = engine
        self._model = model
        self._tokens = TokenText(engine.tokenizer)

    async def complete(self, body: Any, *, adapter: str | None = None) -> Body:
        """Answer a request in one piece; `stream` in the body is not looked at.

        Args:
            body: The decoded request.
            adapter: LoRA adapter to sample with, see `TokenSource.generate`.

        Raises:
            RequestError: The request is wrong; `to_body` of the error is the answer.
            EngineError: The engine stopped or died.
        """
        request = self._read(body)
        version = self._engine.version
        choices = await self._sampler(request, adapter).whole(watched=bool(request.stop))
        answer = self._head(request, version)
        answer["choices"] = [
            {
                **self._choice(request, choice.tokens, version, offset=0),
                "text": choice.writer.content,
                **self._prompt(request, choice.index),
            }
            for choice in choices
        ]
        answer["usage"] = usage_of(choices, each=request.n)
        return answer

    async def stream(self, body: Any, *, adapter: str | None = None) -> AsyncGenerator[Body]:
        """Answer a request in chunks; closing the iterator cancels the completions.

        A wrong request raises at the first chunk, before anything was sampled.

        Args:
            body: The decoded request.
            adapter: LoRA adapter to sample with, see `TokenSource.generate`.

        Raises:
            RequestError: The request is wrong.
            EngineError: The engine stopped or died, perhaps in the middle.
        """
        request = self._read(body)
        version = self._engine.version
        head = self._head(request, version)
        offsets = [0] * len(request.prompts)
        for index in range(len(offsets)):
            empty = self._choice(request, Piece(index=index), version, offset=0)
            yield {**head, "choices": [{**empty, **self._prompt(request, index)}]}
        sampler = self._sampler(request, adapter)
        async with aclosing(sampler.pieces()) as pieces:
            async for piece in pieces:
                choice = self._choice(request, piece, version, offset=offsets[piece.index])
                tokens = choice["logprobs"]["tokens"] if choice["logprobs"] else []
                offsets[piece.index] += sum(map(len, tokens))
                yield {**head, "choices": [choice]}
        if request.include_usage:
            yield {**head, "choices": [], "usage": usage_of(sampler.choices, each=request.n)}

    def _read(self, body: Any) -> _Request:
        members = read_body(body, _NEUTRAL)
        n: int = read_number(members, "n", 1, low=1, high=128, whole=True)
        if members.get("best_of") not in (None, n):
            refuse_parameter("best_of")
        logprobs = read_number(members, "logprobs", None, low=0, high=20, whole=True)
        stream_options = read_member(members, "stream_options", dict, {})
        return _Request(
            prompts=[ids for ids in self._prompts(members) for _ in range(n)],
            params=read_sampling(members, default_limit=_DEFAULT_LIMIT, top_logprobs=logprobs or 0),
            n=n,
            stop=read_stop(members),
            include_usage=stream_options.get("include_usage") is True,
            logprobs=logprobs is not None,
            return_token_ids=read_member(members, "return_token_ids", bool, default=False),
            model=read_member(members, "model", str, None),
        )

    def _prompts(self, members: Mapping[str, Any]) -> list[list[int]]:
        given = members.get("prompt")
        several: list[Any] = [given]
        if isinstance(given, list) and given and isinstance(given[0], (str, list)):
            several = cast("list[Any]", given)
        with_special = read_member(members, "add_special_tokens", bool, default=True)
        prompts = [self._ids(prompt, with_special=with_special) for prompt in several]
        for ids in prompts:
            self._engine.check_prompt(ids)
        return prompts

    def _ids(self, prompt: Any, *, with_special: bool) -> list[int]:
        if isinstance(prompt, str):
            return self._engine.tokenizer(prompt, add_special_tokens=with_special)["input_ids"]
        ids = cast("list[Any]", prompt) if isinstance(prompt, list) else []
        if not ids or set(map(type, ids)) != {int}:
            raise RequestError(
                "prompt must be a text, a list of token ids, or a list of either", param="prompt"
            )
        return ids

    def _sampler(self, request: _Request, adapter: str | None) -> ChoiceSampler:
        def write() -> ChoiceWriter:
            ends = self._engine.eos_ids | frozenset(request.params.stop_token_ids)
            return ChoiceWriter(self._engine.tokenizer, stop=request.stop, end_ids=ends)

        return ChoiceSampler(self._engine, request.prompts, request.params, write, adapter=adapter)

    # -- shapes ---------------------------------------------------------------------------------

    def _head(self, request: _Request, version: int) -> Body:
        head: Body = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(now()),
            "model": request.model or self._model,
        }
        return {**head, "weight_version": version} if request.return_token_ids else head

    @staticmethod
    def _prompt(request: _Request, index: int) -> Body:
        return {"prompt_token_ids": request.prompts[index]} if request.return_token_ids else {}

    def _choice(self, request: _Request, piece: Piece, version: int, *, offset: int) -> Body:
        """Return a choice, or a chunk of one whose tokens begin at a place in its text."""
        told: Body = {"index": piece.index, "text": piece.text, "logprobs": None}
        if request.logprobs and piece.token_ids:
            entries = self._tokens.logprobs(piece.token_ids, piece.logprobs, piece.top)
            told["logprobs"] = _logprobs(entries, offset)
        ids = told_ids(piece, version) if request.return_token_ids else {}
        return {**told, "finish_reason": piece.finish_reason, "stop_reason": piece.stop, **ids}


def _logprobs(entries: Sequence[Body], offset: int) -> Body:
    """Return log-probabilities of chat completions in the shape of completions."""
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    # The sampled token is always told, as by OpenAI, likely or not.
    top = [
        {it["token"]: it["logprob"] for it in (*entry["top_logprobs"], entry)}
        for entry in entries
        if entry["top_logprobs"]
    ]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": top or None,
        "text_offset": offsets,
    }
