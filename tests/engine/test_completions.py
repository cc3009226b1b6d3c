"""Completions over the engine: prompts of every kind, streamed and whole."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from agentlightning.engine.completions import CompletionService
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.errors import RequestError
from tests.support.scripted_model import teach

ASK: dict[str, Any] = {"prompt": "héllo", "max_tokens": 6, "seed": 2}


@pytest.fixture
def service(engine: Engine) -> CompletionService:
    return CompletionService(engine, model="tiny")


async def joined(service: CompletionService, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices that the chunks of a stream add up to."""
    choices: dict[int, dict[str, Any]] = {}
    async for chunk in service.stream(body):
        assert chunk["object"] == "text_completion"
        for choice in chunk["choices"]:
            known = choices.get(choice["index"])
            if known is None:
                choices[choice["index"]] = choice
                continue
            known["text"] += choice["text"]
            known.update({key: choice[key] for key in ("finish_reason", "stop_reason")})
            if "token_ids" in choice:
                known["token_ids"] += choice["token_ids"]
            before, new = known["logprobs"], choice["logprobs"]
            if before and new:
                new = {k: before[k] + new[k] if new[k] else before[k] for k in new}
            known["logprobs"] = new or before
    return [choices[index] for index in sorted(choices)]


def agree(left: Any, right: Any) -> bool:
    """Tell whether two answers are the same, but for the last bits of log-probabilities, which
    depend on what else is in a batch.
    """
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(agree(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(agree, left, right))
    if isinstance(left, float):
        return math.isclose(left, right, abs_tol=1e-4)
    return bool(left == right)


async def test_streamed_and_whole_agree(service: CompletionService) -> None:
    """Texts, ids, log-probabilities and offsets are the same in both."""
    body = {**ASK, "n": 2, "logprobs": 2, "return_token_ids": True, "prompt": ["héllo", [70, 71]]}
    for seed in range(4):
        asked = {**body, "seed": seed}
        whole = await service.complete(asked)
        assert agree(await joined(service, asked), whole["choices"])
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
        first, _, third, _ = whole["choices"]
        assert third["prompt_token_ids"] == [70, 71]
        assert len(first["prompt_token_ids"]) == len("héllo".encode())
        for choice in whole["choices"]:
            logprobs = choice["logprobs"]
            assert len(logprobs["tokens"]) == len(choice["token_ids"])
            assert all(value <= 0 for value in logprobs["token_logprobs"])
            assert logprobs["text_offset"][0] == 0
            assert 2 <= len(logprobs["top_logprobs"][0]) <= 3
        sampled = sum(len(choice["token_ids"]) for choice in whole["choices"])
        assert whole["usage"]["prompt_tokens"] == len(first["prompt_token_ids"]) + 2
        assert whole["usage"]["completion_tokens"] == sampled


async def test_a_text_and_its_ids_are_one_prompt(service: CompletionService) -> None:
    """A prompt as ids is completed as its text is, and nothing is told that was not asked for."""
    by_text = await service.complete(ASK)
    ids = (await service.complete({**ASK, "return_token_ids": True}))["choices"][0]
    by_ids = await service.complete({**ASK, "prompt": ids["prompt_token_ids"]})
    assert by_ids["choices"] == by_text["choices"]
    assert set(by_text) == {"id", "object", "created", "model", "choices", "usage"}
    assert set(by_text["choices"][0]) == {
        *("index", "text", "logprobs", "finish_reason", "stop_reason"),
    }


async def test_limits(tiny: LoadedModel, make_engine: Callable[..., Engine]) -> None:
    """A completion has 16 tokens unless asked otherwise, and ends at a stop string."""
    text = "one END two three four"
    plain = await taught(tiny, make_engine, text).complete({"prompt": "x"})
    assert plain["choices"][0]["finish_reason"] == "length"
    assert plain["usage"]["completion_tokens"] == 16
    body = {"prompt": "x", "stop": ["END"]}
    (choice,) = (await taught(tiny, make_engine, text).complete(body))["choices"]
    assert (choice["text"], choice["stop_reason"]) == ("one ", "END")
    assert await joined(taught(tiny, make_engine, text), body) == [choice]


def taught(tiny: LoadedModel, make_engine: Callable[..., Engine], text: str) -> CompletionService:
    """Return a service of a model that says a text."""
    return CompletionService(make_engine(teach(tiny, text)), model="tiny")


async def test_usage_in_streams(service: CompletionService) -> None:
    """The counts come at the end of a stream that asks for them."""
    body = {**ASK, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in service.stream(body)]
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert chunks[-1]["choices"] == []
    assert json.dumps(chunks)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ""}, "messages"),
        ({"prompt": [10**6]}, "messages"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"n": 0}, "n"),
    ],
)
async def test_what_is_refused(
    service: CompletionService, members: dict[str, Any], param: str
) -> None:
    """What makes no sense, or cannot be done, is refused by name, in streams as well."""
    body = {**ASK, **members}
    with pytest.raises(RequestError) as caught:
        await service.complete(body)
    assert caught.value.param == param
    with pytest.raises(RequestError):
        await anext(service.stream(body))
