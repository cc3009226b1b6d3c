"""The choices of one request, sampled side by side: as wholes or in pieces as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.request import Generation, TokenCallback, TokenEvent
from agentlightning.engine.sampling import SamplingParams, derive_seed
from agentlightning.engine.token_source import TokenSource
from agentlightning.errors import EngineError

__all__ = ["ChoiceSampler", "SampledChoice", "told_ids", "usage_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledChoice:
    """A choice that has come to its end."""

    index: int
    writer: ChoiceWriter
    last: Piece
    """What was said after all other pieces."""
    generation: Generation

    @property
    def tokens(self) -> Piece:
        """Return the last piece with all tokens of the choice."""
        generation = self.generation
        return replace(
            self.last,
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            top=generation.top_logprobs,
            versions=tuple(v for _, count, v in generation.versions for _ in range(count)),
        )


class ChoiceSampler:
    """Samples the choices of one request; used once, in one event loop."""

    def __init__(
        self,
        engine: TokenSource,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        write: Callable[[], ChoiceWriter],
        on_end: Callable[[SampledChoice], None] | None = None,
        *,
        adapter: str | None = None,
    ) -> None:
        """Prepare to sample.

        Args:
            engine: A started engine, or what else samples.
            prompts: One for each choice.
            params: How to sample; each choice derives a seed of its own from its seed.
            write: Makes the writer of a choice.
            on_end: Is told each choice that ends, before anyone else is.
            adapter: LoRA adapter to sample with, see `TokenSource.generate`.
        """
        self._engine = engine
        self._prompts = prompts
        self._params = params
        self._write = write
        self._on_end = on_end
        self._adapter = adapter
        self.choices: list[SampledChoice] = []
        """All choices in their order, once they have ended."""

    async def whole(self, *, watched: bool) -> list[SampledChoice]:
        """Return all choices.

        Args:
            watched: Something other than a token may end a choice.

        Raises:
            EngineError: The engine stopped or died.
        """

        async def sample(index: int) -> SampledChoice:
            writer = self._write()

            def watch(event: TokenEvent) -> bool:
                writer.push([event.token_id])
                return writer.stopped

            generation = await self._generate(index, watch if watched else None)
            if not watched:
                writer.push(generation.token_ids)
            return self._end(index, writer, generation)

        self.choices = await _all([sample(index) for index in range(len(self._prompts))])
        return self.choices

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Yield the pieces of all choices as they come; closing the iterator cancels the rest.

        Raises:
            EngineError: The engine stopped or died.
        """
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        sampling = asyncio.ensure_future(self._sample_into(pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            self.choices = await sampling
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await sampling

    async def _sample_into(self, pieces: asyncio.Queue[Piece | None]) -> list[SampledChoice]:
        """Sample all choices, putting their pieces into the queue and None at the end."""
        loop = asyncio.get_running_loop()

        async def sample(index: int) -> SampledChoice:
            writer = self._write()

            def watch(event: TokenEvent) -> bool:
                piece = writer.add(index, event)
                if piece is not None:
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
                return writer.stopped

            generation = await self._generate(index, watch)
            choice = self._end(index, writer, generation)
            pieces.put_nowait(choice.last)
            return choice

        try:
            return await _all([sample(index) for index in range(len(self._prompts))])
        finally:
            pieces.put_nowait(None)

    def _end(self, index: int, writer: ChoiceWriter, generation: Generation) -> SampledChoice:
        last = writer.last(index, generation.finish_reason)
        choice = SampledChoice(index=index, writer=writer, last=last, generation=generation)
        if self._on_end is not None:
            self._on_end(choice)
        return choice

    async def _generate(self, index: int, watch: TokenCallback | None) -> Generation:
        params = self._params
        if params.seed is not None:
            params = replace(params, seed=derive_seed(params.seed, index))
        generation = await self._engine.generate(
            self._prompts[index], params, adapter=self._adapter, on_token=watch
        )
        if generation.finish_reason == "abort":
            raise EngineError("the engine was stopped before the completion was done")
        return generation


async def _all(samples: list[Awaitable[SampledChoice]]) -> list[SampledChoice]:
    """Await all; when one fails or this task is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(sample) for sample in samples]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def told_ids(piece: Piece, version: int) -> dict[str, Any]:
    """Return what `return_token_ids` asks for, of a choice or of a part of one.

    Args:
        piece: Its tokens.
        version: Of the weights when the call began, which the answer says elsewhere.
    """
    told: dict[str, Any] = {"token_ids": list(piece.token_ids)}
    if any(sampled_by != version for sampled_by in piece.versions):
        told["token_versions"] = list(piece.versions)
    return told


def usage_of(choices: Sequence[SampledChoice], *, each: int) -> dict[str, Any]:
    """Return the counts of tokens as OpenAI names them.

    Args:
        choices: All choices of a request.
        each: How many in a row answer one prompt; its tokens count once.
    """
    generations = [choice.generation for choice in choices]
    groups = [generations[at : at + each] for at in range(0, len(generations), each)]
    prompt = sum(len(group[0].prompt_ids) for group in groups)
    sampled = sum(len(generation.token_ids) for generation in generations)
    cached = sum(min(one.cached_prompt_tokens for one in group) for group in groups)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
