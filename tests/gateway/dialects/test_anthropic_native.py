"""Calls to a server of Anthropic's own format: bytes pass as they are, and are recorded."""

import json
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic

from agentlightning.gateway.upstream import UpstreamCapabilities
from tests.gateway.running import running
from tests.support.model_server import ModelServer
from tests.support.told_events import pieces, serve, stream_of

PATH = "/v1/messages"
NATIVE = UpstreamCapabilities(dialects=frozenset({"openai.chat", "anthropic.messages"}))
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
    # What chat completions could not say.
    "tools": [{"type": "web_search_20250305", "name": "web_search"}],
}
BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm.\n", "signature": "c2ln"},
    {"type": "text", "text": "Grüße 🎈\n"},
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}},
    {"type": "text", "text": "\u2028done"},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"q": "é", "n": [1, 2]}},
]
USAGE = {"input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 4}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": BLOCKS,
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": USAGE,
}


def events() -> list[dict[str, Any]]:
    """Return the message as the events of a stream, texts in pieces of three characters."""
    usage = {**USAGE, "output_tokens": 1}
    opening = {**MESSAGE, "content": [], "stop_reason": None, "usage": usage}
    told: list[dict[str, Any]] = [{"type": "message_start", "message": opening}, {"type": "ping"}]
    for at, block in enumerate(BLOCKS):
        start, parts = taken_apart(block)
        told.append({"type": "content_block_start", "index": at, "content_block": start})
        told += [{"type": "content_block_delta", "index": at, "delta": part} for part in parts]
        told.append({"type": "content_block_stop", "index": at})
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    told.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}})
    return [*told, {"type": "message_stop"}]


def taken_apart(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return how a block begins in a stream, and its deltas."""
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}, deltas("text_delta", "text", block["text"])
        case "thinking":
            signed = {"type": "signature_delta", "signature": block["signature"]}
            thoughts = deltas("thinking_delta", "thinking", block["thinking"])
            return {"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signed]
        case "tool_use":
            written = json.dumps(block["input"], ensure_ascii=False)
            return {**block, "input": {}}, deltas("input_json_delta", "partial_json", written)
        case _:
            return block, []


def deltas(kind: str, member: str, text: str) -> list[dict[str, Any]]:
    return [{"type": kind, member: piece} for piece in pieces(text)]


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_pass_and_are_recorded(server: ModelServer, stream: bool) -> None:
    """The client gets the server's bytes, and the record says the same in chat's shape."""
    body = serve(server, PATH, MESSAGE, events() if stream else None)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with httpx.AsyncClient() as client:
            sent = {**ASK, "stream": stream}
            answer = await client.post(f"{run.base_url}/messages?beta=true", json=sent)
        record = await run.record()
    assert answer.content == body
    (call,) = server.calls
    assert call.path == "/v1/messages?beta=true"
    assert call.request == {**sent, "model": "real-m"}
    assert record.choices[0].message == {
        "role": "assistant",
        "content": "Grüße 🎈\n\u2028done",
        "reasoning_content": "Hm.\n",
        "tool_calls": [
            {
                "id": "toolu_1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"q": "é", "n": [1, 2]}'},
            }
        ],
        "other_blocks": [BLOCKS[2]],
    }
    assert (record.choices[0].finish_reason, record.response_id) == ("tool_calls", "msg_1")
    assert record.usage["output_tokens"] == record.usage["completion_tokens"] == 4
    assert (record.usage["prompt_tokens"], record.usage["total_tokens"]) == (12, 16)
    assert record.usage["prompt_tokens_details"] == {"cached_tokens": 7}
    assert (record.dialect, record.trained, record.outcome) == ("anthropic.messages", False, "ok")


async def test_requests_that_need_no_change_keep_their_bytes(server: ModelServer) -> None:
    """A request that names the model as the server does arrives as it was written."""
    serve(server, PATH, MESSAGE)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        run.gateway.set_model("real-m", run.gateway.models["m"])
        written = b'{ "model": "real-m", "max_tokens": 1.0, "messages": [] }'
        server.raw["/v1/messages"] = (200, "application/json", json.dumps(MESSAGE).encode())
        async with httpx.AsyncClient() as client:
            await client.post(
                f"{run.base_url}/messages",
                content=written,
                headers={"content-type": "application/json", "anthropic-version": "2023-06-01"},
            )
    assert server.calls[0].headers["content-length"] == str(len(written))
    assert server.calls[0].headers["anthropic-version"] == "2023-06-01"


async def test_chat_request_is_recorded_where_there_is_one(server: ModelServer) -> None:
    """Readers of records find the request in chat's shape if chat completions can say it."""
    serve(server, PATH, MESSAGE)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with AsyncAnthropic(base_url=run.attempt_url, api_key="k") as client:
            await client.messages.create(**{**ASK, "tools": []})
            await client.messages.create(**ASK)
        plain, odd = await run.records()
    assert plain.chat_request == {"model": "m", "max_tokens": 9, "messages": ASK["messages"]}
    assert odd.chat_request is None


async def test_trained_models_are_translated(server: ModelServer) -> None:
    """A trained model's call goes to chat completions, where ids are told, native or not."""
    both = UpstreamCapabilities(token_ids=True, logprobs=True, dialects=NATIVE.dialects)
    async with running(server, capabilities=both) as run:
        async with AsyncAnthropic(base_url=run.attempt_url, api_key="k") as client:
            await client.messages.create(**{**ASK, "tools": []})
        record = await run.record()
    assert server.calls[0].path == "/v1/chat/completions"
    assert record.choices[0].token_ids == server.calls[0].token_ids[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_pass_as_they_are(server: ModelServer, stream: bool) -> None:
    """An error status keeps its body, and an error within a stream is recorded as one."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    body = stream_of([*events()[:8], error]) if stream else json.dumps(error).encode()
    kind = "text/event-stream" if stream else "application/json"
    server.raw["/v1/messages"] = (200 if stream else 529, kind, body)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with AsyncAnthropic(base_url=run.attempt_url, api_key="k", max_retries=0) as client:
            with pytest.raises(anthropic.APIStatusError) as caught:
                async with client.messages.stream(**ASK) as told:
                    await told.get_final_message()
        record = await run.record()
    assert caught.value.body == error
    assert record.outcome == "error"
    assert "Overloaded" in (record.error or "")
    if stream:
        assert (record.choices[0].message or {})["reasoning_content"] == "Hm.\n"


async def test_streams_that_break_off(server: ModelServer) -> None:
    """A stream without an end is an error for the client and in the record."""
    server.raw["/v1/messages"] = (200, "text/event-stream", stream_of(events()[:9]))
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with AsyncAnthropic(base_url=run.attempt_url, api_key="k", max_retries=0) as client:
            with pytest.raises(anthropic.APIStatusError, match="broke off"):
                async with client.messages.stream(**ASK) as told:
                    await told.get_final_message()
        assert (await run.record()).outcome == "error"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"type": "message"}'])
async def test_what_is_no_message(server: ModelServer, body: bytes) -> None:
    """An answer that is no message is an error, not a message without content."""
    server.raw["/v1/messages"] = (200, "application/json", body)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with AsyncAnthropic(base_url=run.attempt_url, api_key="k", max_retries=0) as client:
            with pytest.raises(anthropic.InternalServerError, match="api_error"):
                await client.messages.create(**ASK)
        assert (await run.record()).outcome == "error"
