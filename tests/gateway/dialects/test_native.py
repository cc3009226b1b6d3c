"""What all formats that pass on as they are have in common."""

import json
from typing import Any

import pytest

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.native import NativeExchange
from agentlightning.gateway.dialects.request_check import refuse
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import EventSplitter


class Plain(NativeExchange):
    """A format without an end."""

    path = "/v1/plain"
    is_complete = is_over = False

    def __init__(self, body: bytes, to_chat: Any = dict) -> None:
        route = ModelRoute(upstream=HttpUpstream("http://server/v1"), model="real", trained=False)
        super().__init__(json.loads(body), body, route, to_chat)
        self.taken: list[Any] = []

    def take_whole(self, body: bytes) -> bytes:
        return body

    def answer(self) -> CapturedAnswer:
        return CapturedAnswer()

    def _take(self, event: Any) -> None:
        self.taken.append(event)


def test_a_request_keeps_its_bytes_unless_its_model_has_another_name() -> None:
    """Only the name is changed, and only where the server knows another one."""
    same = b'{ "model": "real", "x": 1.0 }'
    assert Plain(same).upstream_body == same
    assert json.loads(Plain(b'{"model": "m", "stream": true}').upstream_body) == {
        "model": "real",
        "stream": True,
    }
    assert Plain(b'{"stream": true}').stream
    assert Plain(same).upstream_path == "/v1/plain"


def test_requests_that_chat_cannot_say_have_no_chat_request() -> None:
    """The server may serve what we cannot translate."""
    assert Plain(b"{}", lambda: {"messages": []}).chat_request == {"messages": []}
    assert Plain(b"{}", lambda: refuse("x", "is odd")).chat_request is None


def test_events_pass_as_they_are() -> None:
    """Comments and empty events pass unread; what is no object is the server's error."""
    exchange = Plain(b"{}")
    data = b': hi\n\ndata: {"a": 1}\n\ndata:\n\n'
    events = EventSplitter().feed(data)
    assert b"".join(exchange.take_event(event) for event in events) == data
    assert exchange.taken == [{"a": 1}]
    (broken,) = EventSplitter().feed(b"data: [\n\n")
    with pytest.raises(UpstreamError):
        exchange.take_event(broken)
