"""OpenAI's own client in front of a chat server: what it sees, what is asked, what is kept."""

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import Running, call_from_thread, running
from tests.support.async_property import run_property
from tests.support.model_server import Answer, ModelServer
from tests.support.scripted_answers import answers, check_record

SEARCH: Any = {
    "type": "function",
    "name": "search",
    "description": "Finds things.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    "strict": False,
}
ASK: dict[str, Any] = {"model": "m", "input": "hi", "max_output_tokens": 99}
LOGPROBS: dict[str, Any] = {"include": ["message.output_text.logprobs"]}

# What belongs to one response and to no other.
_OWN = {"id", "created_at", "completed_at"}


async def whole(client: AsyncOpenAI, **options: Any) -> dict[str, Any]:
    """Return a response that came in one piece, as the client sees it."""
    return (await client.responses.create(**{**ASK, **options})).to_dict()


async def streamed(client: AsyncOpenAI, **options: Any) -> dict[str, Any]:
    """Return what a stream ends with; that its events add up to that is checked."""
    events = [
        event.to_dict()
        async for event in await client.responses.create(**{**ASK, **options}, stream=True)
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    response = events[-1]["response"]
    assert events[-1]["type"] == f"response.{response['status']}"
    assert all(e["response"]["id"] == response["id"] for e in [*events[:2], events[-1]])
    check_events(events[2:-1], response["output"])
    return response


def check_events(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Check that every item and part begins, grows and ends as it does in the output."""
    sums: dict[tuple[Any, ...], str] = {}
    logprobs: dict[int, list[Any]] = {}
    for event in events:
        kind, at = event["type"].removeprefix("response."), event["output_index"]
        item = output[at]
        key = (at, event.get("content_index"), event.get("summary_index"))
        if kind == "output_item.added":
            assert sum(it["type"] == "response.output_item.added" for it in events) == len(output)
            assert event["item"]["status"] == "in_progress"
            assert (event["item"]["id"], event["item"]["type"]) == (item["id"], item["type"])
        elif kind == "output_item.done":
            assert event["item"] == item
        elif kind.endswith("part.added"):
            sums[key] = ""
        elif kind.endswith(".delta"):
            assert event["item_id"] == item["id"]
            sums[key] = sums.get(key, "") + event["delta"]
            logprobs.setdefault(at, []).extend(event.get("logprobs") or [])
        elif kind.endswith("part.done"):
            parts = item["summary"] if "summary_index" in event else item["content"]
            assert event["part"] == parts[event.get("summary_index", event.get("content_index"))]
        else:
            told = event.get("text", event.get("refusal", event.get("arguments")))
            assert sums.get(key, "") == told
            if event.get("logprobs"):
                assert event["logprobs"][: len(logprobs.get(at, []))] == logprobs.get(at, [])


def plain(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without what differs between two that say the same."""
    output = [{k: v for k, v in item.items() if k != "id"} for item in response["output"]]
    return {**{k: v for k, v in response.items() if k not in _OWN}, "output": output}


def expected(answer: Answer) -> list[dict[str, Any]]:
    """Return the output that a scripted answer has to become."""
    output: list[dict[str, Any]] = []
    done = {"status": "completed"}
    if answer.reasoning:
        content = [{"type": "reasoning_text", "text": answer.reasoning}]
        output.append({"type": "reasoning", "summary": [], "content": content, **done})
    if answer.text or not answer.tools:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        output.append({"type": "message", "role": "assistant", "content": [part], **done})
    for at, (name, written) in enumerate(answer.tools):
        call = {"type": "function_call", "call_id": f"call_0_{at}", "name": name}
        output.append({**call, "arguments": written, **done})
    return output


async def test_streamed_whole_and_recorded_agree() -> None:
    """Texts, thoughts, tools, ids and log-probabilities agree between stream, whole and record."""
    with ModelServer() as server:
        async with running(server) as run, run.client() as client:

            @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(answer=answers, logprobs=st.booleans())
            async def agree(answer: Answer, logprobs: bool) -> None:
                server.script = answer
                options = LOGPROBS if logprobs else {}
                seen = await whole(client, **options)
                if not logprobs:
                    assert plain(seen)["output"] == expected(answer)
                for item in seen["output"]:
                    for part in item.get("content", []) if item["type"] == "message" else []:
                        told = [entry["logprob"] for entry in part["logprobs"]]
                        assert told == (server.calls[-1].logprobs[0] if logprobs else [])
                again = await streamed(client, **options)
                assert plain(again) == plain(seen)
                usage = seen["usage"]
                call = server.calls[-1]
                assert usage["input_tokens"] == len(call.prompt_token_ids)
                assert usage["input_tokens_details"]["cached_tokens"] == (answer.cached_tokens or 0)
                assert usage["output_tokens"] == len(call.token_ids[0])
                records = (await run.records())[-2:]
                for record, sent in zip(records, server.calls[-2:], strict=True):
                    check_record(record, answer, sent)
                assert [record.response_id for record in records] == [seen["id"], again["id"]]

            await run_property(agree)


@pytest.mark.parametrize("stream", [False, True])
async def test_request_and_record(server: ModelServer, stream: bool) -> None:
    """The upstream is asked in its own format, and the record has both requests."""
    async with running(server) as run, run.client() as client:
        options: dict[str, Any] = {
            "instructions": "Be brief.",
            "tools": [SEARCH],
            "temperature": 0.5,
            "top_p": 0.9,
            "metadata": {"user_id": "u"},
            "extra_body": {"top_k": 7},
        }
        seen = await (streamed if stream else whole)(client, **options)
        record = await run.record()
    asked = server.calls[0].request
    assert asked["model"] == "real-m"
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    assert asked["tools"][0]["function"]["parameters"] == SEARCH["parameters"]
    assert (asked["temperature"], asked["max_tokens"], asked["top_k"]) == (0.5, 99, 7)
    assert asked["return_token_ids"] is asked["logprobs"] is True
    assert record.request["instructions"] == "Be brief."
    assert record.chat_request is not None
    assert record.chat_request["messages"] == asked["messages"]
    assert record.chat_request["model"] == "m"
    assert (record.dialect, record.model, record.stream) == ("openai.responses", "m", stream)
    assert record.response_id == seen["id"]
    echoed = {key: seen[key] for key in ("model", "instructions", "temperature", "metadata")}
    assert echoed == {
        "model": "m",
        "instructions": "Be brief.",
        "temperature": 0.5,
        "metadata": {"user_id": "u"},
    }
    assert seen["tools"] == [SEARCH]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_goes_back_as_it_was_answered(
    server: ModelServer, stream: bool
) -> None:
    """A client that sends the output back makes the message that was recorded, odd JSON too."""
    tools = [("search", '{"q": "é"}'), ("search", "not json"), ("search", '{"a": [1, 2.5]}')]
    server.script = Answer(text="One\n\ntwo ", reasoning=" Hm.\n", tools=tools)
    for options in ({}, {"reasoning": {"summary": "auto"}}):
        async with running(server) as run, run.client() as client:
            seen = await (streamed if stream else whole)(client, **options)
            results = results_of(seen)
            hello = {"role": "user", "content": "hi"}
            await client.responses.create(model="m", input=[hello, *seen["output"], *results])
            recorded = (await run.records())[0].choices[0].message
        messages = server.calls[-1].request["messages"]
        assert messages[1] == recorded
        assert [it["role"] for it in messages] == ["user", "assistant", *["tool"] * 3]


def results_of(response: dict[str, Any]) -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "found"}
        for item in response["output"]
        if item["type"] == "function_call"
    ]


async def test_previous_response(server: ModelServer) -> None:
    """A response is gone on from by its id: the same prompt as with all items, but no more."""
    server.script = Answer(text="Hm", reasoning="R", tools=[("search", "{}")])
    async with running(server) as run, run.client() as client:
        options: dict[str, Any] = {"tools": [SEARCH]}
        first = await whole(client, **options, instructions="Once.")
        second = await streamed(
            client, **options, input=results_of(first), previous_response_id=first["id"]
        )
        third = await whole(client, **options, input="so?", previous_response_id=second["id"])
        by_id = server.calls[-1].request["messages"]
        items: list[Any] = [{"role": "user", "content": "hi"}, *first["output"]]
        items += [*results_of(first), *second["output"], {"role": "user", "content": "so?"}]
        await whole(client, **options, input=items)
        referred = [{"type": "item_reference", "id": it["id"]} for it in first["output"]]
        await whole(client, **options, input=[items[0], *referred, *results_of(first)])
        records = await run.records()
    assert by_id == server.calls[3].request["messages"]
    assert server.calls[4].request["messages"] == server.calls[1].request["messages"]
    assert [it["role"] for it in by_id] == ["user", *["assistant", "tool", "assistant", "user"]]
    assert third["previous_response_id"] == second["id"]
    assert records[2].chat_request is not None
    assert records[2].chat_request["messages"] == by_id


async def test_responses_that_are_not_remembered(server: ModelServer) -> None:
    """Unknown ids, other attempts' and those not stored are refused as OpenAI refuses them."""
    async with running(server) as run, run.client() as client:
        unstored = await whole(client, store=False)
        stored = await whole(client)
        rollout = await run.store.start_rollout(input="other")
        path = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1"
        async with run.client(base_url=run.gateway.url + path) as other:
            for asking, name in (
                (client, "resp_none"),
                (client, unstored["id"]),
                (other, stored["id"]),
            ):
                with pytest.raises(openai.BadRequestError, match="not found") as caught:
                    await whole(asking, previous_response_id=name)
                assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.BadRequestError, match="no item"):
            await whole(client, input=[{"type": "item_reference", "id": "msg_none"}])
    assert len(server.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (Answer(), "completed", None),
        (Answer(finish_reason="length"), "incomplete", "max_output_tokens"),
        (Answer(finish_reason="content_filter"), "incomplete", "content_filter"),
        (Answer(tools=[("search", "{")], finish_reason="length"), "incomplete", None),
    ],
)
async def test_how_answers_end(
    server: ModelServer, stream: bool, answer: Answer, status: str, reason: str | None
) -> None:
    """Why a chat answer ended is said in OpenAI's words, and by the item that was cut off."""
    server.script = answer
    async with running(server) as run, run.client() as client:
        seen = await (streamed if stream else whole)(client)
    assert seen["status"] == status
    assert seen["output"][-1]["status"] == status
    assert all(item["status"] == "completed" for item in seen["output"][:-1])
    if status == "incomplete":
        assert seen["incomplete_details"] == {"reason": reason or "max_output_tokens"}


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals(server: ModelServer, stream: bool) -> None:
    """A refusal is a part of its own, and goes back as one."""
    server.script = Answer(text="", refusal="I will not.")
    async with running(server) as run, run.client() as client:
        seen = await (streamed if stream else whole)(client)
        items: list[Any] = [*seen["output"], {"role": "user", "content": "please"}]
        await whole(client, input=items)
        recorded = (await run.records())[0].choices[0].message
    assert seen["output"][0]["content"] == [{"type": "refusal", "refusal": "I will not."}]
    assert server.calls[1].request["messages"][0] == recorded


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts(server: ModelServer, stream: bool) -> None:
    """Thoughts are told as asked for, and come back from whatever the client keeps of them."""
    server.script = Answer(text="b", reasoning="Grüße\n🎈")
    async with running(server) as run, run.client() as client:
        options: dict[str, Any] = {
            "reasoning": {"summary": "auto", "effort": "high"},
            "include": ["reasoning.encrypted_content"],
        }
        seen = await (streamed if stream else whole)(client, **options)
        thought = seen["output"][0]
        assert thought["summary"] == [{"type": "summary_text", "text": "Grüße\n🎈"}]
        kept = [{**thought, "summary": []}, {"type": "reasoning", "summary": thought["summary"]}]
        for item in kept:
            item.pop("status", None)
            await whole(client, input=[item, seen["output"][1], {"role": "user", "content": "?"}])
            message = server.calls[-1].request["messages"][0]
            assert message["reasoning_content"] == "Grüße\n🎈"
    asked = server.calls[0].request
    assert asked["reasoning_effort"] == "high"
    assert asked["chat_template_kwargs"] == {"enable_thinking": True}


async def test_untrained_chat_models_are_translated_too(server: ModelServer) -> None:
    """A chat server behind an untrained model serves the client, and is asked for no ids."""
    capabilities = UpstreamCapabilities()
    async with running(server, trained=False, capabilities=capabilities) as run:
        async with run.client() as client:
            seen = await streamed(client, reasoning={"effort": "none"})
        record = await run.record()
    assert seen["output"][0]["content"][0]["text"] == "hello"
    members = {"model", "messages", "max_tokens", "stream", "stream_options", "reasoning_effort"}
    assert set(server.calls[0].request) == members
    assert not record.trained
    assert record.choices[0].message == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_no_attempt_are_answered(server: ModelServer, stream: bool) -> None:
    """A call that names no attempt is translated as well, remembered, and leaves no record."""
    async with running(server) as run, run.client(base_url=run.gateway.endpoint) as client:
        ask = streamed if stream else whole
        first = await ask(client)
        await ask(client, previous_response_id=first["id"])
        with pytest.raises(openai.BadRequestError, match="flavour"):
            await ask(client, extra_body={"flavour": "sweet"})
        assert await run.records() == []
        stats = run.gateway.stats
    assert len(server.calls[1].request["messages"]) == 3
    assert (stats.recorded, stats.unrecorded, stats.unattributed) == (0, 0, 3)


def test_blocking_client(server: ModelServer) -> None:
    """The client without asyncio is served alike."""

    def call(run: Running) -> None:
        with OpenAI(base_url=run.base_url, api_key="key") as client:
            assert client.responses.create(**ASK).output_text == "hello"
            with client.responses.stream(**ASK) as stream:
                told = [event.delta for event in stream if event.type.endswith("text.delta")]
                assert stream.get_final_response().output_text == "".join(told) == "hello"

    call_from_thread(server, call)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_errors_of_the_upstream(
    server: ModelServer, stream: bool, status: int, error: type[openai.APIStatusError]
) -> None:
    """An error keeps its status, its message and its code."""
    server.script = Answer(status=status, headers={"retry-after": "7"})
    async with running(server) as run, run.client() as client:
        with pytest.raises(error, match="scripted failure") as caught:
            await (streamed if stream else whole)(client)
        record = await run.record()
    assert (caught.value.type, caught.value.code) == ("server_error", "scripted")
    assert caught.value.response.headers["retry-after"] == "7"
    assert (record.outcome, record.http_status) == ("error", status)


@pytest.mark.parametrize("fault", ["malformed", "cut", "reset"])
async def test_broken_streams(server: ModelServer, fault: Any) -> None:
    """A stream that breaks off ends with a failed response and an error, never like a whole one."""
    server.script = Answer(text="a text of many tokens", tools=[("search", "{}")], fault=fault)
    async with running(server) as run, run.client() as client:
        seen: list[Any] = []
        with pytest.raises(openai.APIError):
            async for event in await client.responses.create(**ASK, stream=True):
                seen.append(event.to_dict())
        record = await run.record()
    last = seen[-1]
    assert last["type"] == "response.failed"
    assert last["sequence_number"] == len(seen) - 1
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert record.outcome == "error"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_under_a_good_status(server: ModelServer, stream: bool) -> None:
    """An error that a server sends under status 200 is no response for the client."""
    body = {"error": {"message": "out of memory", "type": "server_error"}}
    async with running(server) as run, run.client() as client:
        server.script = Answer(instead=body)
        with pytest.raises(openai.APIError, match="out of memory"):
            await (streamed if stream else whole)(client)
        record = await run.record()
    assert record.outcome == "error"
    assert "out of memory" in (record.error or "")


async def test_early_disconnect(server: ModelServer) -> None:
    """A client that leaves in the middle stops the model; what came so far is recorded."""
    server.script = Answer(text="a text of many tokens", fault="hang")
    async with running(server) as run, run.client() as client:
        stream = await client.responses.create(**ASK, stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        record = await run.cut_off()
    assert record.outcome == "cancelled"
    said = (record.choices[0].message or {})["content"]
    assert said
    assert "a text of many tokens".startswith(said)


async def test_events_on_the_wire(server: ModelServer) -> None:
    """Every event is named, and says its name in its data too."""
    server.script = Answer(text="b", reasoning="a", tools=[("search", "{}")])
    async with running(server) as run, httpx.AsyncClient() as client:
        answer = await client.post(f"{run.base_url}/responses", json={**ASK, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n", 1) for event in answer.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert names == [event["type"] for event in data]
    item = ["output_item.added", "output_item.done"]
    part = ["content_part.added", "content_part.done"]
    assert [name.removeprefix("response.") for name in names] == [
        *("created", "in_progress"),
        *(item[0], part[0], "reasoning_text.delta", "reasoning_text.done", part[1], item[1]),
        *(item[0], part[0], "output_text.delta", "output_text.done", part[1], item[1]),
        *(item[0], "function_call_arguments.delta", "function_call_arguments.done", item[1]),
        "completed",
    ]
