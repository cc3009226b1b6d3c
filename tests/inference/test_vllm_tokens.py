"""Completions by token ids, as a vLLM server gives them."""

import asyncio

import pytest

from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import (
    ContextLengthError,
    EngineError,
    RequestError,
    UpstreamError,
)
from agentlightning.inference.vllm_server import VLLMServer
from agentlightning.inference.vllm_tokens import ServedModel, VLLMTokens
from tests.support.vllm_like_server import logprob_of

EOS = 258


@pytest.fixture
async def tokens(server, tiny):
    client = VLLMServer(server.url)
    tokens = VLLMTokens(client, tiny.tokenizer, eos_ids=frozenset({EOS}), vocabulary=266)
    tokens.ready({"": ServedModel("base", 3)}, version=3, context=16)
    yield tokens
    await client.aclose()


def ids_of(tiny, text):
    return [*tiny.tokenizer(text, add_special_tokens=False)["input_ids"], EOS]


async def test_ids_go_out_and_ids_come_back(tokens, server, tiny):
    """The prompt's ids are sent as they are; the answer has ids, log-probabilities and version."""
    assert tiny.tokenizer.eos_token_id == EOS
    generation = await tokens.generate([5, 6, 7], SamplingParams(temperature=0.5, max_tokens=9))
    ids = ids_of(tiny, "red")
    assert generation.prompt_ids == (5, 6, 7)
    assert generation.token_ids == tuple(ids)
    assert generation.logprobs == tuple(logprob_of(token, 0.5) for token in ids)
    assert generation.versions == ((0, len(ids), 3),)
    assert (generation.finish_reason, generation.cached_prompt_tokens) == ("stop", 1)
    (body,) = server.completions
    assert body["prompt"] == [5, 6, 7]
    assert "stream" not in body
    assert (tokens.counts.prompt, tokens.counts.sampled) == (3, len(ids))


async def test_streamed_it_is_the_same(tokens, server):
    """A callback gets every token as it comes; the completion is that of one piece."""
    server.say = "red green"
    params = SamplingParams(top_logprobs=2)
    events = []
    streamed = await tokens.generate([5], params, on_token=events.append)
    assert streamed == await tokens.generate([5], params)
    assert [event.token_id for event in events] == list(streamed.token_ids)
    assert [event.logprob for event in events] == list(streamed.logprobs)
    assert [event.top for event in events] == list(streamed.top_logprobs)
    assert {event.version for event in events} == {3}
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["stop"]
    assert streamed.top_logprobs[0] == tuple(
        sorted([(100, -0.1), (101, -1.1), (ids_of_first(events), events[0].logprob)], key=by_value)[
            :2
        ]
    )


def ids_of_first(events):
    return events[0].token_id


def by_value(pair):
    return -pair[1]


async def test_nothing_is_left_to_the_servers_defaults(tokens, server):
    """What a request leaves out would come from the model's generation_config.json."""
    await tokens.generate([5], SamplingParams(seed=2**64 - 3, top_k=-1, stop_token_ids=(9,)))
    (body,) = server.completions
    told = {name: value for name, value in body.items() if name not in {"model", "prompt"}}
    assert told == {
        "max_tokens": 15,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": -3,
        "stop_token_ids": [9, EOS],
        "ignore_eos": False,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    await tokens.generate([5], SamplingParams(ignore_eos=True))
    assert server.completions[1]["stop_token_ids"] == []
    assert "seed" not in server.completions[1]


async def test_a_callback_ends_a_completion(tokens, server):
    """What comes after its word is not part of the completion, and the server stops."""
    server.say = "red green blue"
    server.free.clear()
    generation = await tokens.generate([5], on_token=lambda event: True)
    assert (len(generation.token_ids), len(generation.logprobs)) == (1, 1)
    assert generation.finish_reason == "stop"
    while not server.given_up:
        await asyncio.sleep(0.001)


async def test_a_cancelled_completion_is_given_up(tokens, server):
    """Cancelling the task ends the completion at the server."""
    server.free.clear()
    task = asyncio.create_task(tokens.generate([5]))
    while not server.completions:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not server.given_up:
        await asyncio.sleep(0.001)
    assert tokens.gate.inside == 0


async def test_an_answer_without_room_ends_with_length(tokens):
    """The limit that is sent is the smaller of the request's and the context's."""
    generation = await tokens.generate([5] * 15)
    assert (len(generation.token_ids), generation.finish_reason) == (1, "length")


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ([], RequestError),
        ([266], RequestError),
        ([-1], RequestError),
        ([5] * 16, ContextLengthError),
    ],
)
async def test_a_wrong_prompt_is_not_sent(tokens, server, prompt, kind):
    """What cannot work is refused here, as by the engine."""
    with pytest.raises(kind):
        await tokens.generate(prompt)
    assert server.completions == []


async def test_before_it_is_connected_nothing_can_be_sampled(server, tiny):
    """Used too early it says what to do."""
    client = VLLMServer(server.url)
    tokens = VLLMTokens(client, tiny.tokenizer, eos_ids=frozenset(), vocabulary=266)
    assert tokens.version == 0
    with pytest.raises(EngineError, match=r"call start\(\) first"):
        await tokens.generate([5])
    await client.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_tells_no_ids_is_an_error(tokens, server, stream):
    """Ids are never made from text."""
    server.tells_ids = False
    with pytest.raises(UpstreamError, match="does not tell the ids"):
        await tokens.generate([5], on_token=(lambda event: None) if stream else None)


async def test_a_completion_without_an_end_is_an_error(tokens, server):
    """A stream that says it is complete, but not why, was cut somewhere on the way."""
    server.ends = False
    with pytest.raises(UpstreamError, match="how a completion ended"):
        await tokens.generate([5], on_token=lambda event: None)
