"""Serving clients of another format from chat completions, whatever that format is."""

import json
from typing import Any

import pytest

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.translated import TranslatedExchange, read_error
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import EventSplitter
from agentlightning.gateway.upstream import UpstreamCapabilities


class Shouting:
    """A format that says what it is given in capitals."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {"said": answer["choices"][0]["message"]["content"].upper()}

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return b"".join(c["delta"]["content"].upper().encode() for c in chunk["choices"])

    def end(self) -> bytes:
        return b"<end>"

    def error(self, message: str, *, error_type: str, code: str) -> bytes:
        return f"{message}/{error_type}/{code}".encode()

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        return b"<" + self.error(message, error_type=error_type, code=code) + b">"


def exchange(**members: Any) -> TranslatedExchange:
    capabilities = UpstreamCapabilities(token_ids=True, logprobs=True)
    upstream = HttpUpstream("http://server/v1", capabilities=capabilities)
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return TranslatedExchange(request, ModelRoute(upstream=upstream, model="real"), Shouting())


def chunk(text: str, **choice: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, **choice}]}


def feed(call: TranslatedExchange, *lines: Any) -> list[bytes]:
    """Return what the client gets for each event."""
    texts = [line if isinstance(line, str) else "data: " + json.dumps(line) for line in lines]
    sent = "".join(f"{text}\n\n" for text in texts).encode()
    return [call.take_event(event) for event in EventSplitter().feed(sent)]


def test_the_upstream_is_asked_for_ids() -> None:
    """The request goes to chat completions under the upstream's name, and is kept as it was."""
    call = exchange(stream=True)
    asked = json.loads(call.upstream_body)
    assert (call.upstream_path, asked["model"], call.stream) == (
        "/v1/chat/completions",
        "real",
        True,
    )
    assert asked["return_token_ids"] is asked["logprobs"] is True
    assert call.chat_request is not None
    assert call.chat_request["model"] == "m"
    assert "logprobs" not in call.chat_request


def test_whole_answers() -> None:
    """The client gets its format, and the capture has what the upstream said."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hey"}, "token_ids": [4, 2]}
    call = exchange()
    body = json.dumps({"id": "c", "choices": [{**choice, "finish_reason": "stop"}]})
    assert call.take_whole(body.encode()) == b'{"said":"HEY"}'
    (captured,) = call.answer().choices
    assert (captured.message, captured.token_ids) == (choice["message"], [4, 2])


def test_streams() -> None:
    """Chunks are told as they come, comments pass, and the end is told once."""
    call = exchange(stream=True)
    told = feed(call, ": alive", chunk("a"), chunk("b", finish_reason="stop"))
    assert told == [b": alive\n\n", b"A", b"B"]
    assert call.is_complete
    assert not call.is_over
    assert feed(call, "data: [DONE]") == [b"<end>"]
    assert call.is_over
    assert call.finish() == b""
    assert (call.answer().choices[0].message or {})["content"] == "ab"


def test_streams_that_just_stop() -> None:
    """A stream that ends after its last choice is told to its end; one that breaks off is not."""
    whole, broken = exchange(stream=True), exchange(stream=True)
    feed(whole, chunk("a", finish_reason="stop"))
    feed(broken, chunk("a"))
    assert (whole.finish(), broken.finish()) == (b"<end>", b"")
    assert not broken.is_complete


def test_errors_in_answers() -> None:
    """An error under a good status raises; within a stream it is told once, and nothing after it."""
    error = {"error": {"message": "out of memory"}}
    call = exchange()
    with pytest.raises(UpstreamError, match="out of memory"):
        call.take_whole(json.dumps(error).encode())
    assert call.failure == "out of memory"
    call = exchange(stream=True)
    told = feed(call, chunk("a"), error)
    assert told == [b"A", b"<out of memory/server_error/upstream>"]
    assert call.finish() == b""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "m", "type": "t", "code": 5}}', ("m", "t", "5")),
        (b'{"message": "m", "type": "t"}', ("m", "t", "")),
        (b'{"detail": "d"}', ("d", "", "")),
        (b'{"error": "e"}', ("e", "", "")),
        (b'{"error": {}}', ('{"error": {}}', "", "")),
        (b"<html>\n", ("<html>", "", "")),
        (b"", ("The model server answered 500.", "", "")),
    ],
)
def test_reading_errors(body: bytes, expected: tuple[str, str, str]) -> None:
    """Errors of OpenAI's shape are taken apart; of others, the text is the message."""
    assert read_error(500, body) == expected
    assert exchange().take_error(500, body) == "/".join(expected).encode()
