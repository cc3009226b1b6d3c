"""Sampling the choices of one request side by side."""

import asyncio
from typing import Any

import pytest

from agentlightning.engine.choice import ChoiceWriter, Piece
from agentlightning.engine.choice_sampler import (
    ChoiceSampler,
    SampledChoice,
    told_ids,
    usage_of,
)
from agentlightning.engine.engine import Engine
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import EngineError, RequestError

PROMPTS = [[70, 71], [70, 71], [72]]


def sampler(engine: Engine, prompts: Any = None, **options: Any) -> ChoiceSampler:
    def write() -> ChoiceWriter:
        return ChoiceWriter(engine.tokenizer, stop=(), end_ids=engine.eos_ids)

    params = SamplingParams(max_tokens=8, seed=5, ignore_eos=True)
    return ChoiceSampler(engine, prompts or PROMPTS, params, write, **options)


async def test_pieces_add_up_to_the_wholes(engine: Engine) -> None:
    """Each choice says the same in pieces as whole, and is told to `on_end` once."""
    ended: list[SampledChoice] = []
    whole = await sampler(engine, on_end=ended.append).whole(watched=False)
    watched = await sampler(engine).whole(watched=True)
    in_pieces = sampler(engine)
    texts, ids = ["", "", ""], [[], [], []]
    async for piece in in_pieces.pieces():
        texts[piece.index] += piece.text
        ids[piece.index] += piece.token_ids
    for choices in (watched, in_pieces.choices):
        assert [c.tokens.token_ids for c in choices] == [c.tokens.token_ids for c in whole]
    assert texts == [choice.writer.content for choice in whole]
    assert ids == [list(choice.tokens.token_ids) for choice in whole]
    assert sorted(choice.index for choice in ended) == [0, 1, 2]
    # One seed, and yet another answer for each choice.
    assert ids[0] != ids[1]


async def test_prompts_count_once(engine: Engine) -> None:
    """Choices that answer the same prompt share its tokens in the counts."""
    choices = await sampler(engine).whole(watched=False)
    usage = usage_of(choices[:2], each=2)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 16)
    assert usage_of(choices, each=1)["prompt_tokens"] == 5


async def test_leaving_cancels_the_rest(engine: Engine) -> None:
    """Whoever stops reading pieces leaves nothing running."""
    pieces = sampler(engine).pieces()
    await anext(pieces)
    await pieces.aclose()
    await sampler(engine).whole(watched=False)
    assert engine.stats().running == 0


async def test_one_failure_ends_all(engine: Engine) -> None:
    """A choice that cannot be sampled ends the others with it."""
    with pytest.raises(RequestError):
        await sampler(engine, [[70], [10**6]]).whole(watched=False)
    await sampler(engine).whole(watched=False)
    assert engine.stats().running == 0


async def test_an_engine_that_stops_is_an_error(engine: Engine) -> None:
    """Half an answer of a stopped engine is none."""
    waiting = asyncio.ensure_future(sampler(engine, [[70]] * 40).whole(watched=False))
    await asyncio.sleep(0)
    engine.stop()
    with pytest.raises(EngineError):
        await waiting


def test_versions_are_told_where_they_changed() -> None:
    """Token by token only if the weights changed on the way."""
    piece = Piece(index=0, token_ids=(5, 6), versions=(3, 3))
    assert told_ids(piece, 3) == {"token_ids": [5, 6]}
    assert told_ids(piece, 2) == {"token_ids": [5, 6], "token_versions": [3, 3]}
