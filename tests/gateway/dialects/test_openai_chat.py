"""Capturing chat completions: what the client sees, what the store keeps, what was sampled."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.types.call import CallRecord
from tests.gateway.running import HELLO, running
from tests.support.model_server import Answer, ModelServer, text_of

IDS = {"extra_body": {"return_token_ids": True}}
TOOL: Any = {"type": "function", "function": {"name": "search", "parameters": {}}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
answers = st.builds(
    Answer,
    text=st.text(max_size=30)
    | st.sampled_from(["\n\ndata: x\n\n", "日本語 🎈🇩🇪", '"}]\\', "\r\n"]),
    tools=st.lists(
        st.tuples(
            st.sampled_from(["search", "get_weather"]),
            st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(json.dumps),
        ),
        max_size=2,
    ),
    write_bytes=st.sampled_from([None, 11, 64]),
    spaced=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
)


async def streamed(client: AsyncOpenAI, **options: Any) -> list[dict[str, Any]]:
    """Return what a client puts together from a stream, by choice."""
    choices: dict[int, dict[str, Any]] = {}
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True, **options)
    async for chunk in stream:
        for choice in chunk.choices:
            own = choices.setdefault(
                choice.index, {"text": "", "tools": {}, "ids": [], "logprobs": [], "reason": None}
            )
            own["text"] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                tool = own["tools"].setdefault(call.index, ["", ""])
                tool[0] += (call.function and call.function.name) or ""
                tool[1] += (call.function and call.function.arguments) or ""
            own["ids"] += (choice.model_extra or {}).get("token_ids") or []
            if choice.logprobs and choice.logprobs.content:
                own["logprobs"] += [entry.logprob for entry in choice.logprobs.content]
            own["reason"] = choice.finish_reason or own["reason"]
    return [choices[index] for index in sorted(choices)]


async def whole(client: AsyncOpenAI, **options: Any) -> list[dict[str, Any]]:
    """Return the same from an answer in one piece."""
    answer = await client.chat.completions.create(model="m", messages=HELLO, **options)
    return [
        {
            "text": choice.message.content or "",
            "tools": {
                at: [call.function.name, call.function.arguments]
                for at, call in enumerate(choice.message.tool_calls or [])
                if call.type == "function"
            },
            "ids": (choice.model_extra or {}).get("token_ids") or [],
            "logprobs": [
                entry.logprob for entry in (choice.logprobs and choice.logprobs.content) or []
            ],
            "reason": choice.finish_reason,
        }
        for choice in answer.choices
    ]


def recorded(record: CallRecord) -> list[dict[str, Any]]:
    """Return the same from a record."""
    return [
        {
            "text": (choice.message or {}).get("content") or "",
            "tools": {
                at: [call["function"]["name"], call["function"]["arguments"]]
                for at, call in enumerate((choice.message or {}).get("tool_calls") or [])
            },
            "ids": choice.token_ids,
            "logprobs": choice.logprobs,
            "reason": choice.finish_reason,
        }
        for choice in record.choices
    ]


def sent(server: ModelServer, at: int) -> list[dict[str, Any]]:
    """Return what the server says it sampled."""
    call = server.calls[at]
    return [
        {"ids": ids, "logprobs": logprobs}
        for ids, logprobs in zip(call.token_ids, call.logprobs, strict=True)
    ]


async def test_streamed_whole_and_recorded_agree() -> None:
    """Texts, tools, ids and log-probabilities agree between stream, whole answer and record."""
    with ModelServer() as server:
        async with running(server) as run, run.client() as client:

            @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(answer=answers, n=st.sampled_from([1, 1, 3]))
            async def agree(answer: Answer, n: int) -> None:
                server.script = answer
                asked: dict[str, Any] = {"n": n, "logprobs": True, **IDS}
                seen = await whole(client, **asked)
                assert seen == await streamed(client, **asked)
                records = (await run.records())[-2:]
                assert [recorded(record) for record in records] == [seen, seen]
                one, other = (record.choices[0].message or {} for record in records)
                # A stream opens with an empty text where a whole answer has null.
                assert {**one, "content": one["content"] or ""} == {
                    **other,
                    "content": other["content"] or "",
                }
                for at in (-1, -2):
                    sampled = [{k: one[k] for k in ("ids", "logprobs")} for one in seen]
                    assert sampled == sent(server, at)
                told = "".join(f"<{name}>{arguments}" for name, arguments in answer.tools)
                assert text_of(seen[0]["ids"]) == answer.text + told
                assert len(seen) == n

            # The decorated function runs its examples in this very loop.
            await _run_property(agree)


async def _run_property(test: Any) -> None:
    loop = asyncio.get_running_loop()
    inner = test.hypothesis.inner_test

    def bridge(*args: Any, **kwargs: Any) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **kwargs), loop).result(30)

    test.hypothesis.inner_test = bridge
    await asyncio.to_thread(test)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_not_asked_for_is_not_seen(server: ModelServer, stream: bool) -> None:
    """A client that asked for neither ids nor log-probabilities gets the bytes it would have
    got without a gateway, while the record has both.
    """
    server.script = Answer(text="Grüße, 世界!\n", tools=[("search", '{"q": "é"}')], versions=(3, 4))
    body = {"model": "m", "messages": HELLO, "stream": stream, "n": 2}
    async with running(server) as run, httpx.AsyncClient() as client:
        plain = await client.post(
            f"{server.endpoint}/chat/completions", json={**body, "model": "real-m"}
        )
        through = await client.post(f"{run.base_url}/chat/completions", json=body)
        assert through.content == plain.content
        assert through.headers["content-type"] == plain.headers["content-type"]
        record = await run.record()
        assert [choice.token_ids for choice in record.choices] == server.calls[1].token_ids
        assert [choice.logprobs for choice in record.choices] == server.calls[1].logprobs
        assert record.prompt_token_ids == server.calls[1].prompt_token_ids


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", [{"return_token_ids": True}, {"logprobs": True}])
async def test_what_was_asked_for_is_seen(
    server: ModelServer, stream: bool, asked: dict[str, Any]
) -> None:
    """A client that asked for one of ids and log-probabilities gets that one only."""
    async with running(server) as run, run.client() as client:
        (seen,) = await (streamed if stream else whole)(client, extra_body=asked)
    assert bool(seen["ids"]) == ("return_token_ids" in asked)
    assert bool(seen["logprobs"]) == ("logprobs" in asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_versions_are_recorded_as_runs(server: ModelServer, stream: bool) -> None:
    """Weights that change within an answer are recorded token by token."""
    server.script = Answer(text="a text of many tokens", versions=(7, 8))
    async with running(server) as run, run.client() as client:
        await (streamed if stream else whole)(client)
        (choice,) = (await run.record()).choices
    half = len(choice.token_ids) // 2
    assert [(run.start, run.length, run.version) for run in choice.versions] == [
        (0, half, 7),
        (half, len(choice.token_ids) - half, 8),
    ]


async def test_untrained_models_are_left_alone(server: ModelServer) -> None:
    """A judge's request reaches the server as it came but for the name, and is recorded so."""
    async with running(server, trained=False, overrides={"temperature": 1.0}) as run:
        async with run.client() as client:
            await whole(client, temperature=0.1)
        record = await run.record()
    assert server.calls[0].request == {
        "model": "real-m",
        "messages": HELLO,
        "temperature": 0.1,
    }
    assert not record.trained
    assert record.choices[0].token_ids == []
    assert record.choices[0].message == {"role": "assistant", "content": "hello"}


async def test_sampling_of_trained_models_is_controlled(server: ModelServer) -> None:
    """Overrides replace and remove what the client asked for; the record keeps the client's."""
    overrides = {"temperature": 1.0, "stop": None}
    async with running(server, overrides=overrides) as run, run.client() as client:
        await whole(client, temperature=0.1, stop=["x"])
        record = await run.record()
    request = server.calls[0].request
    assert request["temperature"] == 1.0
    assert "stop" not in request
    assert record.request["temperature"] == 0.1
    assert record.request["stop"] == ["x"]


async def test_defaults_hold_where_the_client_is_silent(server: ModelServer) -> None:
    """Defaults fill in what the client left out, under whatever name it might have said it."""
    defaults = {"temperature": 1.0, "max_tokens": 64}
    async with running(server, defaults=defaults) as run, run.client() as client:
        await whole(client)
        await whole(client, max_completion_tokens=8, temperature=0.2)
    silent, said = (call.request for call in server.calls)
    assert (silent["temperature"], silent["max_tokens"]) == (1.0, 64)
    assert (said["temperature"], said["max_completion_tokens"]) == (0.2, 8)
    assert "max_tokens" not in said


async def test_servers_without_ids_are_not_asked_for_them(server: ModelServer) -> None:
    """Only what an upstream is able to say is asked of it."""
    capabilities = UpstreamCapabilities(logprobs=True)
    async with running(server, capabilities=capabilities) as run, run.client() as client:
        await whole(client)
        record = await run.record()
    assert "return_token_ids" not in server.calls[0].request
    assert record.choices[0].token_ids == []
    assert record.choices[0].logprobs == server.calls[0].logprobs[0]


async def test_usage_of_a_stream_is_recorded(server: ModelServer) -> None:
    """The usage chunk after the last choice reaches both the client and the record."""
    async with running(server) as run, run.client() as client:
        stream = await client.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        usages = [chunk.usage async for chunk in stream if chunk.usage]
        record = await run.record()
    assert [usage.model_dump(exclude_none=True) for usage in usages] == [record.usage]
    assert record.usage["completion_tokens"] == len(record.choices[0].token_ids)


async def test_record_says_who_called_and_how(server: ModelServer) -> None:
    """Role, trace context, model, response id and times of a call are recorded."""
    headers = {
        "x-agl-role": "planner",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with running(server) as run, run.client(default_headers=headers) as client:
        await whole(client, tools=[TOOL])
        (span,) = await run.store.query_spans(run.rollout_id)
        record = await run.record()
    assert (record.role, record.model, record.dialect) == ("planner", "m", "openai.chat")
    assert record.response_id == "chatcmpl-1"
    assert record.request["tools"] == [TOOL]
    assert (span.trace_id, span.parent_id) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
    )
    assert 0 < record.start_time <= record.end_time
    assert span.sequence_id == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("names", [("reasoning",), ("reasoning", "reasoning_content")])
async def test_thoughts_have_one_name_in_records(
    server: ModelServer, stream: bool, names: tuple[str, ...]
) -> None:
    """Thoughts are recorded as `reasoning_content`; the client sees them as the server sent them."""
    server.script = Answer(text="so", reasoning="Hm, é", reasoning_names=names)
    seen = dict.fromkeys(names, "")
    async with running(server) as run, run.client() as client:
        answer: Any = await client.chat.completions.create(model="m", messages=HELLO, stream=stream)
        if stream:
            async for chunk in answer:
                for name in names:
                    delta = chunk.choices[0].delta if chunk.choices else None
                    seen[name] += (delta and (delta.model_extra or {}).get(name)) or ""
        else:
            seen = {name: answer.choices[0].message.model_extra[name] for name in names}
        record = await run.record()
    assert seen == dict.fromkeys(names, "Hm, é")
    message = {"role": "assistant", "content": "so", "reasoning_content": "Hm, é"}
    assert record.choices[0].message == message
