"""Answers are shortened to what there is room for."""

import json
from typing import Any

import anthropic
import openai
import pytest

from agentlightning.gateway.budget import CallBudget
from agentlightning.gateway.shrink import room_for_answer, with_limit
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer

SHRINK = CallBudget(when_short="shrink")
VLLM = (
    "This model's maximum context length is 100 tokens. However, you requested 130 tokens "
    "(60 in the messages, 70 in the completion). Please reduce the length of the messages."
)


@pytest.mark.parametrize(
    ("message", "room"),
    [
        (VLLM, 40),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 70. This model's maximum context "
            "length is 100 tokens and your request has 60 input tokens (70 > 100 - 60).",
            40,
        ),
        (
            "You passed 60 input tokens and requested 70 output tokens. However, the model's "
            "context length is only 100 tokens, resulting in a maximum input length of 30 tokens.",
            40,
        ),
        (
            "Requested token count exceeds the model's maximum context length of 100 tokens. You "
            "requested a total of 130 tokens: 60 tokens from the input messages and 70 tokens for "
            "the completion.",
            40,
        ),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 100. Given: 60 `inputs` tokens and 70 "
            "`max_new_tokens`",
            40,
        ),
        ("input length and `max_tokens` exceed context limit: 60 + 70 > 100, decrease it", 40),
        (VLLM.replace("60 in", "100 in"), None),
        ("prompt is too long: 120 tokens > 100 maximum", None),
        ("no", None),
    ],
)
def test_servers_say_how_much_room_there_is(message: str, room: int | None) -> None:
    """The room beside the prompt is read from each server's words; a prompt too long has none."""
    assert room_for_answer(message) == room


@pytest.mark.parametrize(
    ("path", "asked", "limited"),
    [
        ("/v1/chat/completions", {}, {"max_completion_tokens": 9}),
        ("/v1/chat/completions", {"max_tokens": 50}, {"max_tokens": 9}),
        ("/v1/chat/completions", {"max_tokens": 5}, {"max_tokens": 5}),
        ("/v1/chat/completions", {"n": 3}, {"n": 3, "max_completion_tokens": 3}),
        ("/v1/chat/completions", {"n": 30}, {"n": 30, "max_completion_tokens": 1}),
        ("/v1/completions", {}, {"max_tokens": 9}),
        ("/v1/messages", {"max_tokens": 50}, {"max_tokens": 9}),
        ("/v1/responses", {}, {"max_output_tokens": 9}),
        ("/v1/embeddings", {"input": "a"}, {"input": "a"}),
    ],
)
def test_limits_are_lowered(path: str, asked: dict[str, Any], limited: dict[str, Any]) -> None:
    """Each format's own member is lowered or set, and never raised."""
    assert json.loads(with_limit(json.dumps(asked).encode(), path, 9)) == limited


def test_short_completions_stay() -> None:
    """A completions request without a limit asks for 16 tokens, which may be less than is left."""
    body = b'{"prompt": "a"}'
    assert with_limit(body, "/v1/completions", 20) is body


async def test_calls_are_shortened_to_the_budget(server: ModelServer) -> None:
    """What is left of the tokens bounds the next answer, in whatever format the client speaks."""
    async with running(server, budget=CallBudget(tokens=200, when_short="shrink")) as run:
        async with run.client() as client:
            await client.chat.completions.create(model="m", messages=HELLO, max_tokens=7)
            await client.chat.completions.create(model="m", messages=HELLO, max_tokens=1000)
        async with anthropic.AsyncAnthropic(base_url=run.attempt_url, api_key="k") as client:
            await client.messages.create(model="m", max_tokens=1000, messages=HELLO)
        records = await run.records()
    took = [len(r.prompt_token_ids) + len(r.choices[0].token_ids) for r in records]
    asked = [call.request["max_tokens"] for call in server.calls]
    assert asked == [7, 200 - took[0], 200 - took[0] - took[1]]
    # Records keep what the client asked for.
    assert [record.request["max_tokens"] for record in records] == [7, 1000, 1000]


def too_long(request: dict[str, Any]) -> Answer:
    """Refuse answers of more than 40 tokens, as vLLM does in a context of 100."""
    wanted = request.get("max_tokens") or request.get("max_completion_tokens") or 1000
    return Answer(status=400, error=VLLM) if wanted > 40 else Answer()


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_are_shortened_to_the_context(server: ModelServer, stream: bool) -> None:
    """A refusal that says how much room there is leads to an answer within it, and one record."""
    server.script = too_long
    async with running(server, budget=SHRINK) as run, run.client() as client:
        answer: Any = await client.chat.completions.create(
            model="m", messages=HELLO, max_tokens=70, stream=stream
        )
        text = "".join(
            [chunk.choices[0].delta.content or "" async for chunk in answer]
            if stream
            else [answer.choices[0].message.content]
        )
        record = await run.record()
    assert text == "hello"
    assert [call.request["max_tokens"] for call in server.calls] == [70, 40]
    assert (record.outcome, record.http_status) == ("ok", 200)


@pytest.mark.parametrize(
    ("budget", "error", "calls"),
    [
        (CallBudget(), VLLM, 1),
        (SHRINK, VLLM.replace("60 in", "110 in"), 1),
        (SHRINK, VLLM, 2),
    ],
)
async def test_refusals_that_stay(
    server: ModelServer, budget: CallBudget, error: str, calls: int
) -> None:
    """Without the policy, without room, or after a second refusal the client gets the error."""
    server.script = Answer(status=400, error=error)
    async with running(server, budget=budget) as run, run.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="m", messages=HELLO, max_tokens=70)
        record = await run.record()
    assert caught.value.code == record.error_code == "context_length_exceeded"
    assert error in caught.value.message
    assert len(server.calls) == calls
