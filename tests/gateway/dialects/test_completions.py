"""OpenAI's own client asking for completions: what it sees, what is kept, prompt by prompt."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from agentlightning.gateway.servers import capabilities_of
from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import running
from tests.support.async_property import run_property
from tests.support.completion_server import CompletionServer, prompts_of
from tests.support.model_server import Answer
from tests.support.scripted_answers import texts

PROMPTS: list[Any] = ["hi", [65, 66], ["a", "b é"], [[1, 2], [3]]]

answers = st.builds(
    Answer,
    text=texts,
    write_bytes=st.sampled_from([None, 11, 64]),
    spaced=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
)


@pytest.fixture
def server() -> Iterator[CompletionServer]:
    with CompletionServer() as completion_server:
        yield completion_server


async def whole(client: AsyncOpenAI, **options: Any) -> list[dict[str, Any]]:
    """Return the choices that came in one piece."""
    answer = await client.completions.create(**{"model": "m", "prompt": "hi", **options})
    return [choice.to_dict() for choice in answer.choices]


async def streamed(client: AsyncOpenAI, **options: Any) -> list[dict[str, Any]]:
    """Return the choices that the chunks of a stream add up to."""
    choices: dict[int, dict[str, Any]] = {}
    asked = {"model": "m", "prompt": "hi", **options}
    async for chunk in await client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            new = choice.to_dict()
            known = choices.setdefault(choice.index, new)
            if known is new:
                continue
            known["text"] += new["text"]
            known["finish_reason"] = new["finish_reason"]
            if "token_ids" in known:
                known["token_ids"] += new["token_ids"]
            if known["logprobs"]:
                for key, value in new["logprobs"].items():
                    known["logprobs"][key] = (known["logprobs"][key] or []) + (value or []) or None
    return [choices[index] for index in sorted(choices)]


async def test_streamed_whole_and_recorded_agree() -> None:
    """Texts, ids and log-probabilities agree between stream, whole and record, for any prompts."""
    with CompletionServer() as server:
        async with running(server) as run, run.client() as client:

            @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(
                answer=answers,
                prompt=st.sampled_from(PROMPTS),
                n=st.integers(1, 2),
                logprobs=st.sampled_from([None, 0, 2]),
                ids=st.booleans(),
                echo=st.booleans(),
            )
            async def agree(
                answer: Answer, prompt: Any, n: int, logprobs: int | None, ids: bool, echo: bool
            ) -> None:
                server.script = answer
                options: dict[str, Any] = {"prompt": prompt, "n": n, "echo": echo}
                options["extra_body"] = {"return_token_ids": True} if ids else {}
                if logprobs is not None:
                    options["logprobs"] = logprobs
                if echo and isinstance(prompt, list) and not isinstance(prompt[0], str):
                    # These ids are no text that could be echoed.
                    del options["echo"]
                seen = await whole(client, **options)
                assert await streamed(client, **options) == seen
                call = server.calls[-1]
                assert [choice["text"] for choice in seen] == call.texts
                for choice, told in zip(seen, call.logprobs, strict=True):
                    assert ("token_ids" in choice) == ("prompt_token_ids" in choice) == ids
                    expected = told if logprobs is not None else None
                    assert (choice["logprobs"] or {}).get("token_logprobs") == expected
                for record in (await run.records())[-2:]:
                    texts_kept = [(it.message or {})["content"] for it in record.choices]
                    assert texts_kept == call.texts
                    if options.get("echo") and not ids:
                        assert record.missing == ["prompt_token_ids", "token_ids", "logprobs"]
                        continue
                    known = logprobs is not None or not options.get("echo")
                    assert record.missing == ([] if known else ["logprobs"])
                    assert [it.token_ids for it in record.choices] == call.token_ids
                    for kept, sampled in zip(record.choices, call.logprobs, strict=True):
                        at = len(sampled) - len(kept.token_ids)
                        assert kept.logprobs == (sampled[at:] if known else [])
                    parts = record.by_prompt()
                    assert [part.prompt_token_ids for part in parts] == prompts_of(call.request)
                    assert [len(part.choices) for part in parts] == [n] * len(parts)

            await run_property(agree)


async def test_what_only_the_gateway_asked_for_is_not_shown(server: CompletionServer) -> None:
    """A client that asked for no ids sees none, while the upstream was asked for them."""
    async with running(server) as run, run.client() as client:
        (choice,) = await whole(client)
        record = await run.record()
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert choice["logprobs"] is None
    asked = server.calls[0].request
    assert (asked["model"], asked["return_token_ids"], asked["logprobs"]) == ("real-m", True, 0)
    assert record.dialect == "openai.completions"
    assert record.to_span().name == "openai.completion"
    assert record.request["prompt"] == "hi"


async def test_servers_that_tell_ids_in_no_stream(server: CompletionServer) -> None:
    """A trained model's stream is asked for whole, and told as a stream, usage last."""
    async with running(server, capabilities=capabilities_of("sglang")) as run:
        async with run.client() as client:
            options: dict[str, Any] = {"prompt": ["a", "b"]}
            stream = await client.completions.create(
                model="m", **options, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        record = await run.record()
    assert server.calls[0].request["stream"] is False
    assert [chunk.choices[0].text for chunk in chunks[:-1]] == ["hello", "hello#1"]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].usage is not None
    assert [it.token_ids for it in record.choices] == server.calls[0].token_ids
    assert len(record.by_prompt()) == 2


async def test_prompts_that_no_choice_names(server: CompletionServer) -> None:
    """With several prompts and ids for none of them, no prompt is taken for another's."""
    capabilities = UpstreamCapabilities(logprobs=True)
    async with running(server, capabilities=capabilities) as run, run.client() as client:
        await whole(client, prompt=["a", "b"])
        record = await run.record()
    assert server.calls[0].request["logprobs"] == 1
    assert "return_token_ids" not in server.calls[0].request
    assert record.missing == ["prompt_token_ids", "token_ids"]
    assert record.prompt_token_ids == []


async def test_untrained_models_are_asked_as_the_client_asked(server: CompletionServer) -> None:
    """Nothing is added to a call that is not learnt from, `best_of` included."""
    async with running(server, trained=False) as run, run.client() as client:
        await whole(client, best_of=3, suffix="x")
        record = await run.record()
    asked = {"model": "real-m", "prompt": "hi", "best_of": 3, "suffix": "x"}
    assert server.calls[0].request == asked
    assert (record.choices[0].message or {})["content"] == "hello"


async def test_best_of_is_refused(server: CompletionServer) -> None:
    """A choice among several answers is not what the model sampled, and cannot be learnt from."""
    async with running(server) as run, run.client() as client:
        with pytest.raises(openai.BadRequestError, match="best_of") as caught:
            await whole(client, best_of=3, n=2)
        await whole(client, best_of=2, n=2)
        first, _ = await run.records()
    assert caught.value.code == "unsupported_parameter"
    assert first.outcome == "error"
    assert len(server.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_echoed_prompts_keep_their_text(server: CompletionServer, stream: bool) -> None:
    """A prompt that is to be echoed is, and a token sampled to score it is none of the answer's."""
    async with running(server) as run, run.client() as client:
        ask = streamed if stream else whole
        (choice,) = await ask(client, echo=True, prompt="hé")
        await ask(client, echo=True, max_tokens=0, extra_body={"return_token_ids": True})
        first, scored = await run.records()
    assert choice["text"] == "héhello"
    assert set(server.calls[0].request) <= {"model", "prompt", "echo", "stream"}
    assert first.missing == ["prompt_token_ids", "token_ids", "logprobs"]
    assert scored.missing == ["token_ids", "logprobs"]


async def test_calls_of_no_attempt_pass(server: CompletionServer) -> None:
    """A call that names no attempt is answered as it came, and leaves no record."""
    async with running(server) as run:
        async with run.client(base_url=run.gateway.endpoint) as client:
            (choice,) = await streamed(client)
        assert await run.records() == []
        assert run.gateway.stats.unattributed == 1
    assert choice["text"] == "hello"
