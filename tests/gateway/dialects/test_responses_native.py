"""Calls to a server of OpenAI's own responses: bytes pass as they are, and are recorded."""

from typing import Any

import httpx
import openai
import pytest

from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.types.call import CallRecord
from tests.gateway.running import running
from tests.support.model_server import ModelServer
from tests.support.told_events import pieces, serve, stream_of

PATH = "/v1/responses"
NATIVE = UpstreamCapabilities(dialects=frozenset({"openai.chat", "openai.responses"}))
ASK: dict[str, Any] = {
    "model": "m",
    "input": "hi",
    # What chat completions could not say.
    "tools": [{"type": "web_search"}],
}
SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed"}
OUTPUT: list[dict[str, Any]] = [
    {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Hm.\n"}],
        "encrypted_content": "c2ln",
    },
    SEARCH,
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Grüße 🎈\n", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "no"},
        ],
    },
    {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"q":  "é"}',
        "status": "completed",
    },
]
USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 7},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 16,
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt",
    "output": OUTPUT,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": USAGE,
}
MESSAGE = {
    "role": "assistant",
    "content": "Grüße 🎈\n",
    "reasoning_content": "Hm.\n",
    "reasoning_details": [{"type": "reasoning.encrypted", "data": "c2ln"}],
    "refusal": "no",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "f", "arguments": '{"q":  "é"}'},
        }
    ],
    "other_items": [SEARCH],
}


def events(end: str = "completed") -> list[dict[str, Any]]:
    """Return the response as the events of a stream, texts in pieces of three characters."""
    begun = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
    told: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for at, item in enumerate(OUTPUT):
        empty = {**item}
        deltas: list[dict[str, Any]] = []
        for key in ("summary", "content"):
            number = "summary_index" if key == "summary" else "content_index"
            kinds = {
                "summary_text": "reasoning_summary_text",
                "output_text": "output_text",
                "refusal": "refusal",
            }
            for index, part in enumerate(item.get(key, [])):
                text = part.get("text", part.get("refusal"))
                kind = f"response.{kinds[part['type']]}.delta"
                deltas += [{"type": kind, number: index, "delta": d} for d in pieces(text)]
            if key in item:
                empty[key] = []
        if "arguments" in item:
            empty["arguments"] = ""
            kind = "response.function_call_arguments.delta"
            deltas += [{"type": kind, "delta": d} for d in pieces(item["arguments"])]
        told.append({"type": "response.output_item.added", "item": empty})
        told += deltas
        told.append({"type": "response.output_item.done", "item": item})
        for event in told[-2 - len(deltas) :]:
            event["output_index"] = at
    ended = {**RESPONSE, "status": end}
    told.append({"type": f"response.{end}", "response": ended})
    return [{**event, "sequence_number": at} for at, event in enumerate(told)]


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_pass_and_are_recorded(server: ModelServer, stream: bool) -> None:
    """The client gets the server's bytes, and the record says the same in chat's shape."""
    body = serve(server, PATH, RESPONSE, events() if stream else None)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with httpx.AsyncClient() as client:
            sent = {**ASK, "stream": stream, "previous_response_id": "resp_0"}
            answer = await client.post(f"{run.base_url}/responses?x=1", json=sent)
        record = await run.record()
    assert answer.content == body
    (call,) = server.calls
    assert call.path == "/v1/responses?x=1"
    assert call.request == {**sent, "model": "real-m"}
    assert record.choices[0].message == MESSAGE
    assert (record.choices[0].finish_reason, record.response_id) == ("tool_calls", "resp_1")
    assert record.usage["output_tokens"] == record.usage["completion_tokens"] == 4
    assert (record.usage["prompt_tokens"], record.usage["total_tokens"]) == (12, 16)
    assert record.usage["prompt_tokens_details"] == {"cached_tokens": 7}
    assert (record.dialect, record.trained, record.outcome) == ("openai.responses", False, "ok")
    assert record.chat_request is None


async def test_chat_request_is_recorded_where_there_is_one(server: ModelServer) -> None:
    """Readers of records find the request in chat's shape if chat completions can say it."""
    serve(server, PATH, RESPONSE)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with run.client() as client:
            await client.responses.create(model="m", input="hi", max_output_tokens=9)
        record = await run.record()
    messages = [{"role": "user", "content": "hi"}]
    assert record.chat_request == {"model": "m", "max_tokens": 9, "messages": messages}


async def test_deltas_add_up_to_the_items(server: ModelServer) -> None:
    """What came before a stream broke off is recorded, though no item has ended."""
    told = [it for it in events()[:-1] if it["type"] != "response.output_item.done"]
    server.raw["/v1/responses"] = (200, "text/event-stream", stream_of(told))
    async with running(server, trained=False, capabilities=NATIVE) as run, run.client() as client:
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in await client.responses.create(**ASK, stream=True):
                pass
        record = await run.record()
    assert record.outcome == "error"
    assert record.choices[0].message == MESSAGE
    assert record.choices[0].finish_reason is None


async def test_trained_models_are_translated(server: ModelServer) -> None:
    """A trained model's call goes to chat completions, where ids are told, native or not."""
    both = UpstreamCapabilities(token_ids=True, logprobs=True, dialects=NATIVE.dialects)
    async with running(server, capabilities=both) as run, run.client() as client:
        await client.responses.create(model="m", input="hi")
        record = await run.record()
    assert server.calls[0].path == "/v1/chat/completions"
    assert record.choices[0].token_ids == server.calls[0].token_ids[0]


async def answered(
    server: ModelServer, response: dict[str, Any], told: list[dict[str, Any]] | None
) -> CallRecord:
    """Check that an answer reaches the client as it is, and return its record."""
    body = serve(server, PATH, response, told)
    async with running(server, trained=False, capabilities=NATIVE) as run:
        async with httpx.AsyncClient() as client:
            sent = {**ASK, "stream": told is not None}
            answer = await client.post(f"{run.base_url}/responses", json=sent)
        assert answer.content == body
        return await run.record()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
async def test_incomplete_responses(
    server: ModelServer, stream: bool, reason: str, finish: str
) -> None:
    """Why a response is not complete is recorded in chat's words."""
    response = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": reason}}
    told = [*events()[:-1], {"type": "response.incomplete", "response": response}]
    record = await answered(server, response, told if stream else None)
    assert (record.outcome, record.choices[0].finish_reason) == ("ok", finish)


@pytest.mark.parametrize("stream", [False, True])
async def test_failed_responses(server: ModelServer, stream: bool) -> None:
    """A response that failed reaches the client as it is, and is recorded as an error."""
    error = {"code": "server_error", "message": "Overloaded"}
    response = {**RESPONSE, "status": "failed", "output": [], "error": error}
    told = [*events()[:6], {"type": "response.failed", "response": response}]
    record = await answered(server, response, told if stream else None)
    assert (record.outcome, record.error) == ("error", "Overloaded")
    if stream:
        assert (record.choices[0].message or {})["reasoning_content"] == "Hm.\n"


async def test_errors_in_streams(server: ModelServer) -> None:
    """An error event ends the call as an error."""
    told = [*events()[:4], {"type": "error", "code": "x", "message": "Gone", "sequence_number": 4}]
    record = await answered(server, RESPONSE, told)
    assert (record.outcome, record.error) == ("error", "Gone")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"object": "response"}'])
async def test_what_is_no_response(server: ModelServer, body: bytes) -> None:
    """An answer that is no response is an error, not a response without output."""
    server.raw["/v1/responses"] = (200, "application/json", body)
    async with running(server, trained=False, capabilities=NATIVE) as run, run.client() as client:
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(**ASK)
        assert (await run.record()).outcome == "error"


async def test_stored_responses_are_the_servers(server: ModelServer) -> None:
    """Asking for a response, its items, or that it be deleted goes to the server that has it."""
    async with running(server, trained=False, capabilities=NATIVE) as run, run.client() as client:
        answer = await client.responses.with_raw_response.retrieve("resp_1")
        assert answer.http_response.json()["path"] == "/v1/responses/resp_1"
        gone = await client.responses.with_raw_response.delete("resp_1")
        assert gone.http_response.json()["method"] == "DELETE"
        assert await run.records() == []
        assert run.gateway.stats.passed_through == 2
