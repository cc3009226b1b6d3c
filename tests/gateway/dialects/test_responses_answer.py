"""Saying chat answers as responses: their beginning, their end, and what goes wrong."""

import json
from typing import Any

import pytest

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.responses_answer import ResponseWriter, error_event


def writer(kept: list[Any] | None = None) -> ResponseWriter:
    found: list[Any] = [] if kept is None else kept
    return ResponseWriter(
        "resp_1", {"model": "m"}, "m", lambda response: found.append(response["output"])
    )


def read(data: bytes) -> list[dict[str, Any]]:
    events = data.decode().split("\n\n")[:-1]
    return [json.loads(event.split("data: ", 1)[1]) for event in events]


def test_what_ended_is_kept_and_what_failed_is_not() -> None:
    """A response is remembered once it has come to its end."""
    kept: list[Any] = []
    failing = writer(kept)
    failing.chunk({"choices": [{"delta": {"content": "a"}}]})
    events = read(failing.error_event("Gone", error_type="server_error", code="x"))
    assert [event["type"] for event in events] == ["response.failed", "error"]
    assert events[0]["response"]["error"] == {"code": "server_error", "message": "Gone"}
    assert events[1]["error"]["message"] == events[1]["message"] == "Gone"
    assert kept == []
    ended = writer(kept)
    ended.chunk({"choices": [{"delta": {"content": "a"}}]})
    assert kept == []
    ended.end()
    assert kept[0][0]["content"][0]["text"] == "a"


def test_a_stream_that_fails_at_once_begins_first() -> None:
    """Clients hear of a response before they hear that it failed."""
    events = read(writer().error_event("Gone", error_type="server_error", code="x"))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.failed",
        "error",
    ]
    assert [event["sequence_number"] for event in events] == [0, 1, 2, 3]
    (alone,) = read(error_event("Gone", error_type="t", code=""))
    assert (alone["type"], alone["code"], alone["sequence_number"]) == ("error", None, 0)


def test_an_answer_without_a_choice() -> None:
    """What is no answer is the server's error."""
    with pytest.raises(UpstreamError, match="choice"):
        writer().whole({"choices": []})
