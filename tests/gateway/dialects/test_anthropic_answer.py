"""Chat answers of all sorts of servers as Anthropic messages."""

import json
from typing import Any

import pytest

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.anthropic import AnthropicMessagesDialect
from agentlightning.gateway.dialects.base import Exchange, ModelCall
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import EventSplitter

ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hi"}],
    "stop_sequences": ["END"],
}


def begin(**members: Any) -> Exchange:
    """Return an exchange with a server of chat completions."""
    request = {**ASK, **members}
    route = ModelRoute(upstream=HttpUpstream("http://server/v1"), model="real")
    body = json.dumps(request).encode()
    return AnthropicMessagesDialect().begin(ModelCall(request=request, body=body, route=route))


def whole(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    answer = {"choices": [{"message": message, "finish_reason": "stop", **choice}]}
    return json.loads(begin().take_whole(json.dumps(answer).encode()))


def stream(*deltas: dict[str, Any], done: bool = True, **last: Any) -> list[dict[str, Any]]:
    """Return the client's events, pings left out, for a stream of deltas."""
    ending = {"delta": {}, "finish_reason": "stop", **last}
    choices = [*({"delta": delta} for delta in deltas), ending]
    chunks = [json.dumps({"id": "c", "choices": [choice]}) for choice in choices]
    lines = [*chunks, "[DONE]"] if done else chunks
    exchange = begin(stream=True)
    sent = "".join(f"data: {line}\n\n" for line in lines).encode()
    told = b"".join(exchange.take_event(event) for event in EventSplitter().feed(sent))
    told += exchange.finish()
    assert exchange.is_complete
    events = [line for line in told.decode().split("\n") if line.startswith("data: ")]
    seen = [json.loads(event.removeprefix("data: ")) for event in events]
    return [event for event in seen if event["type"] != "ping"]


def blocks(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return kinds and texts of a stream's blocks; they have to be well nested."""
    found: list[tuple[str, str]] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                is_open = True
                found.append((event["content_block"]["type"], ""))
            case "content_block_delta":
                assert is_open
                delta = event["delta"]
                text = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
                found[-1] = (found[-1][0], found[-1][1] + text)
            case "content_block_stop":
                assert is_open
                is_open = False
        if "index" in event:
            assert event["index"] == len(found) - 1
    assert not is_open
    return found


def test_blocks_follow_the_deltas() -> None:
    """Each change between thoughts and text begins a block; a call holds up what comes after it."""
    head = {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"x"'}}
    events = stream(
        {"reasoning_content": "a"},
        {"content": "b", "reasoning_content": ""},
        {"tool_calls": [head]},
        {"reasoning": "c"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"content": "d", "tool_calls": [{"index": 1, "function": {"arguments": ":1}"}}]},
    )
    assert blocks(events) == [
        ("thinking", "a"),
        ("text", "b"),
        ("thinking", "c"),
        ("tool_use", ""),
        ("text", "d"),
        ("tool_use", '{"x":1}'),
    ]
    started = [e["content_block"] for e in events if e["type"] == "content_block_start"]
    assert [started[at]["name"] for at in (3, 5)] == ["f", "g"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_streams_without_the_last_line() -> None:
    """A server that ends its stream without `[DONE]` still gets its answer told to the end."""
    events = stream({"content": "a"}, done=False)
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]


def test_an_empty_answer_has_no_block() -> None:
    """An answer that says nothing has no content, streamed or not."""
    assert whole({"content": ""})["content"] == []
    assert blocks(stream({"role": "assistant", "content": ""})) == []


def test_other_spellings() -> None:
    """Thoughts under their newer name, contents in parts and arguments as objects are read."""
    function = {"name": "f", "arguments": {"q": "é"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"reasoning": "Hm", "content": parts, "tool_calls": [{"function": function}]}
    thought, text, call = whole(message)["content"]
    assert (thought["thinking"], text["text"]) == ("Hm", "ab")
    assert call == {"type": "tool_use", "id": "call_0", "name": "f", "input": {"q": "é"}}


@pytest.mark.parametrize("member", ["stop_reason", "matched_stop"])
def test_servers_name_the_stop_string(member: str) -> None:
    """vLLM and SGLang say what a choice stopped at; ids of tokens are no sequence of the client."""
    said = whole({"content": "a"}, **{member: "END"})
    assert (said["stop_reason"], said["stop_sequence"]) == ("stop_sequence", "END")
    said = whole({"content": "a"}, **{member: 151645})
    assert (said["stop_reason"], said["stop_sequence"]) == ("end_turn", None)
    last = stream({"content": "a"}, **{member: "END"})[-2]["delta"]
    assert last == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices": []}', b'{"error": {"message": "no"}}', b"[]", b"<html>"]
)
def test_what_is_no_answer(body: bytes) -> None:
    """An answer without a choice is an error, and never an empty message."""
    with pytest.raises(UpstreamError):
        begin().take_whole(body)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (
            400,
            b'{"error": {"message": "bad", "type": "BadRequestError"}}',
            "invalid_request_error",
            "bad",
        ),
        (422, b'{"message": "bad"}', "invalid_request_error", "bad"),
        (409, b"conflict", "invalid_request_error", "conflict"),
        (413, b"", "request_too_large", "The model server answered 413."),
        (502, b"<html>", "api_error", "<html>"),
        (503, b'{"error": "down"}', "overloaded_error", "down"),
        (504, b"late", "timeout_error", "late"),
        (404, b'{"error": {"message": "m", "code": "model_not_found"}}', "not_found_error", "m"),
    ],
)
def test_errors_of_servers(status: int, body: bytes, kind: str, message: str) -> None:
    """An error of any shape becomes one of Anthropic's, its type by the status."""
    told = json.loads(begin().take_error(status, body))
    assert told == {"type": "error", "error": {"type": kind, "message": message}}
