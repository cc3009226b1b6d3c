"""Anthropic's own client in front of a chat server: what it sees, what is asked, what is kept."""

import json
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from hypothesis import HealthCheck, given, settings

from agentlightning.gateway.dialects.anthropic_blocks import INVALID_JSON
from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import Running, call_from_thread, running
from tests.support.async_property import run_property
from tests.support.model_server import Answer, ModelServer, SentCall
from tests.support.scripted_answers import answers, check_record

HELLO: Any = [{"role": "user", "content": "hi"}]
SEARCH: Any = {
    "name": "search",
    "description": "Finds things.",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}},
}
ASK: dict[str, Any] = {"model": "m", "max_tokens": 99, "messages": HELLO}


def client_of(run: Running, **options: Any) -> AsyncAnthropic:
    """Return a client that calls for the attempt; use it as a context manager."""
    defaults: dict[str, Any] = {"base_url": run.attempt_url, "api_key": "key", "max_retries": 0}
    return AsyncAnthropic(**{**defaults, **options})


async def whole(client: AsyncAnthropic, **options: Any) -> dict[str, Any]:
    """Return a message that came in one piece, as the client sees it."""
    message = await client.messages.create(**{**ASK, **options})
    return without_nulls(message.to_dict())


def without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message less the members that the client adds to one that it puts together."""
    return {key: value for key, value in message.items() if value is not None}


async def streamed(client: AsyncAnthropic, **options: Any) -> dict[str, Any]:
    """Return what the client makes of a stream; its own sums of the deltas are checked."""
    parts: dict[int, str] = {}
    async with client.messages.stream(**{**ASK, **options}) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                delta = event.delta.to_dict()
                said = [v for k, v in delta.items() if k in {"text", "thinking", "partial_json"}]
                parts[event.index] = parts.get(event.index, "") + "".join(map(str, said))
        message = without_nulls((await stream.get_final_message()).to_dict())
    for at, block in enumerate(message["content"]):
        if block["type"] == "tool_use":
            assert json.loads(parts[at] or "{}") == block["input"]
        else:
            assert parts[at] == block[block["type"]]
    return message


def expected(answer: Answer, call: SentCall) -> dict[str, Any]:
    """Return the message that a scripted answer has to become."""
    content: list[dict[str, Any]] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for at, (name, written) in enumerate(answer.tools):
        tool = {"type": "tool_use", "id": f"call_0_{at}", "name": name}
        content.append({**tool, "input": expected_input(written)})
    cached = answer.cached_tokens or 0
    return {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": "tool_use" if answer.tools else "end_turn",
        "usage": {
            "input_tokens": len(call.prompt_token_ids) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": len(call.token_ids[0]),
        },
    }


def expected_input(written: str) -> Any:
    """Return the tool input for arguments as the model wrote them."""
    try:
        value = json.loads(written or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {INVALID_JSON: written}


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without signatures."""
    content = [{k: v for k, v in b.items() if k != "signature"} for b in message["content"]]
    return {**message, "content": content}


def settled(message: dict[str, Any]) -> dict[str, Any]:
    """Return a streamed message without the members of broken arguments that were taken back."""
    for block in message["content"]:
        given: dict[str, Any] = block.get("input") or {}
        if INVALID_JSON in given:
            assert {value for key, value in given.items() if key != INVALID_JSON} <= {None}
            block["input"] = {INVALID_JSON: given[INVALID_JSON]}
    return message


async def test_streamed_whole_and_recorded_agree() -> None:
    """Texts, thoughts, tools, ids and log-probabilities agree between stream, whole and record."""
    with ModelServer() as server:
        async with running(server) as run, client_of(run) as client:

            @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(answer=answers)
            async def agree(answer: Answer) -> None:
                server.script = answer
                seen = await whole(client)
                assert plain(seen) == expected(answer, server.calls[-1])
                assert settled(await streamed(client)) == seen
                records = (await run.records())[-2:]
                for record, call in zip(records, server.calls[-2:], strict=True):
                    check_record(record, answer, call)

            await run_property(agree)


async def test_numbers_in_tool_input_keep_their_digits(server: ModelServer) -> None:
    """Arguments go into the answer as the model wrote them, and not as they parse."""
    written = '{"n": 123456789012345678901234567890, "x": 1.500, "x": 2e0}'
    server.script = Answer(text="", tools=[("search", written)])
    async with running(server) as run, httpx.AsyncClient() as client:
        answer = await client.post(f"{run.base_url}/messages", json=ASK)
    assert f'"input":{written}' in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_request_and_record(server: ModelServer, stream: bool) -> None:
    """The upstream is asked in its own format, and the record has both requests."""
    async with running(server) as run, client_of(run) as client:
        options: dict[str, Any] = {
            "system": "Be brief.",
            "tools": [SEARCH],
            "stop_sequences": ["END"],
            # Of the API, though no longer of the client.
            "extra_body": {"temperature": 0.5, "top_p": 0.9, "top_k": 7},
            "metadata": {"user_id": "u"},
        }
        await (streamed if stream else whole)(client, **options)
        record = await run.record()
    asked = server.calls[0].request
    assert asked["model"] == "real-m"
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, *HELLO]
    assert asked["tools"][0]["function"]["parameters"] == SEARCH["input_schema"]
    assert (asked["stop"], asked["max_tokens"], asked["top_k"]) == (["END"], 99, 7)
    assert asked["return_token_ids"] is asked["logprobs"] is True
    assert record.request["system"] == "Be brief."
    assert record.chat_request is not None
    assert record.chat_request["messages"] == asked["messages"]
    assert record.chat_request["model"] == "m"
    assert (record.dialect, record.model, record.stream) == ("anthropic.messages", "m", stream)
    assert record.usage["completion_tokens"] == len(record.choices[0].token_ids)
    assert record.response_id == "chatcmpl-1"


async def test_a_conversation_goes_back_as_it_was_answered(server: ModelServer) -> None:
    """A client that sends an answer back makes the message that was recorded, odd JSON included."""
    tools = [("search", '{"q": "é"}'), ("search", "not json"), ("search", '{"a": [1, 2.5]}')]
    server.script = Answer(text="One\n\ntwo ", reasoning=" Hm.\n", tools=tools)
    async with running(server) as run, client_of(run) as client:
        for stream in (False, True):
            if stream:
                async with client.messages.stream(**ASK) as events:
                    first = await events.get_final_message()
            else:
                first = await client.messages.create(**ASK)
            results: list[Any] = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "found"}
                for block in first.content
                if block.type == "tool_use"
            ]
            turn: Any = [{"role": "assistant", "content": first.content}]
            await client.messages.create(
                model="m",
                max_tokens=9,
                messages=[*HELLO, *turn, {"role": "user", "content": results}],
            )
            recorded = (await run.records())[-2].choices[0].message
            messages = server.calls[-1].request["messages"]
            assert messages[1] == recorded
            assert [it["role"] for it in messages[2:]] == ["tool"] * 3


async def test_events_of_a_stream(server: ModelServer) -> None:
    """A stream has Anthropic's events in Anthropic's order, block after block."""
    server.script = Answer(text="b", reasoning="a", tools=[("search", "{}"), ("f", "")])
    async with running(server) as run, httpx.AsyncClient() as client:
        answer = await client.post(f"{run.base_url}/messages", json={**ASK, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n", 1) for event in answer.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    data = [json.loads(line.removeprefix("data: ")) for _, line in events]
    assert names == [event["type"] for event in data]
    told = [e for e in data if e["type"] != "ping"]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    thought = [block[0], block[1], block[1], block[2]]
    kinds = [e["type"] for e in told]
    tools = [block[0], block[1], block[1], block[2], *block]
    assert kinds == ["message_start", *thought, *block, *tools, "message_delta", "message_stop"]
    assert [e["index"] for e in told if e["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert told[0]["message"]["usage"]["input_tokens"] == len(server.calls[0].prompt_token_ids)
    assert names[1] == "ping"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "reason", "sequence"),
    [
        (Answer(), "end_turn", None),
        (Answer(finish_reason="length"), "max_tokens", None),
        (Answer(finish_reason="content_filter"), "refusal", None),
        (Answer(text="", refusal="I will not."), "refusal", None),
        (Answer(matched="END"), "stop_sequence", "END"),
        (Answer(matched="</s>"), "end_turn", None),
        (Answer(tools=[("search", "{}")], finish_reason="stop"), "tool_use", None),
        (Answer(tools=[("search", "{")], finish_reason="length"), "max_tokens", None),
    ],
)
async def test_stop_reasons(
    server: ModelServer, stream: bool, answer: Answer, reason: str, sequence: str | None
) -> None:
    """Why a chat answer ended is said in Anthropic's words."""
    server.script = answer
    async with running(server) as run, client_of(run) as client:
        seen = await (streamed if stream else whole)(client, stop_sequences=["END"])
    assert (seen["stop_reason"], seen.get("stop_sequence")) == (reason, sequence)
    if answer.refusal:
        assert seen["content"] == [{"type": "text", "text": answer.refusal}]


async def test_untrained_chat_models_are_translated_too(server: ModelServer) -> None:
    """A chat server behind an untrained model serves the client, and is asked for no ids."""
    capabilities = UpstreamCapabilities()
    async with running(server, trained=False, capabilities=capabilities) as run:
        async with client_of(run) as client:
            seen = await streamed(client, thinking={"type": "enabled", "budget_tokens": 1024})
        record = await run.record()
    assert seen["content"] == [{"type": "text", "text": "hello"}]
    assert set(server.calls[0].request) == {
        *("model", "messages", "max_tokens", "stream", "stream_options"),
    }
    assert not record.trained
    assert record.choices[0].message == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_no_attempt_are_answered(server: ModelServer, stream: bool) -> None:
    """A call that names no attempt is translated as well, and leaves no record."""
    async with running(server) as run, client_of(run, base_url=run.gateway.url) as client:
        seen = await (streamed if stream else whole)(client)
        with pytest.raises(anthropic.BadRequestError, match="flavour"):
            await whole(client, extra_body={"flavour": "sweet"})
        assert await run.records() == []
        stats = run.gateway.stats
    assert seen["content"] == [{"type": "text", "text": "hello"}]
    assert (stats.recorded, stats.unrecorded, stats.unattributed) == (0, 0, 2)


def test_blocking_client(server: ModelServer) -> None:
    """The client without asyncio is served alike."""

    def call(run: Running) -> None:
        with Anthropic(base_url=run.attempt_url, api_key="key") as client:
            message = client.messages.create(**ASK)
            with client.messages.stream(**ASK) as stream:
                assert "".join(stream.text_stream) == "hello"
        assert message.content[0].to_dict() == {"type": "text", "text": "hello"}

    call_from_thread(server, call)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (529, "overloaded_error", anthropic.InternalServerError),
    ],
)
async def test_errors_of_the_upstream(
    server: ModelServer, stream: bool, status: int, kind: str, error: type[Exception]
) -> None:
    """An error keeps its status and its message, in the shape that the client reads."""
    server.script = Answer(status=status, headers={"retry-after": "7"})
    async with running(server) as run, client_of(run) as client:
        with pytest.raises(error) as caught:
            await (streamed if stream else whole)(client)
        record = await run.record()
    assert isinstance(caught.value, anthropic.APIStatusError)
    told: Any = caught.value.body
    assert told == {"type": "error", "error": {"type": kind, "message": "scripted failure"}}
    assert caught.value.response.headers["retry-after"] == "7"
    assert (record.outcome, record.http_status) == ("error", status)


async def test_errors_of_the_gateway(server: ModelServer) -> None:
    """What the gateway refuses is said in Anthropic's shape as well, with the right type."""
    async with running(server, secret="secret") as run:
        async with client_of(run) as client:
            with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
                await whole(client)
            with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
                await client.messages.count_tokens(model="m", messages=HELLO)
        async with client_of(run, api_key="secret") as client:
            assert (await whole(client))["content"][0]["text"] == "hello"
            with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
                await whole(client, model="unknown")
            with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
                await whole(client, extra_body={"flavour": "sweet"})
        records = await run.records()
    assert [record.outcome for record in records] == ["ok", "error", "error"]
    assert len(server.calls) == 1


@pytest.mark.parametrize("fault", ["malformed", "cut", "reset"])
async def test_broken_streams(server: ModelServer, fault: Any) -> None:
    """A stream that breaks off ends with an error event, and never like a whole one."""
    server.script = Answer(text="a text of many tokens", tools=[("search", "{}")], fault=fault)
    async with running(server) as run, client_of(run) as client:
        seen: list[str] = []
        with pytest.raises(anthropic.APIStatusError, match="api_error"):
            async for event in await client.messages.create(**ASK, stream=True):
                seen.append(event.type)
        record = await run.record()
    assert "message_stop" not in seen
    assert "message_delta" not in seen
    assert record.outcome == "error"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_under_a_good_status(server: ModelServer, stream: bool) -> None:
    """An error that a server sends under status 200 is no message for the client."""
    body = {"error": {"message": "out of memory", "type": "server_error"}}
    async with running(server) as run, client_of(run) as client:
        server.script = Answer(instead=body)
        with pytest.raises(anthropic.APIStatusError, match="out of memory"):
            await (streamed if stream else whole)(client)
        record = await run.record()
    assert record.outcome == "error"
    assert record.error is not None
    assert "out of memory" in record.error


async def test_early_disconnect(server: ModelServer) -> None:
    """A client that leaves in the middle stops the model; what came so far is recorded."""
    server.script = Answer(text="a text of many tokens", fault="hang")
    async with running(server) as run, client_of(run) as client:
        async with client.messages.stream(**ASK) as stream:
            async for event in stream:
                if event.type == "text":
                    break
        record = await run.cut_off()
    assert record.outcome == "cancelled"
    said = (record.choices[0].message or {})["content"]
    assert said
    assert "a text of many tokens".startswith(said)
