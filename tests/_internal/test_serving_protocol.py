"""Tests of sending an answer's head and body in one piece, with real connections."""

import asyncio
import socket
import sys
from typing import Any

import pytest

from agentlightning._internal.serving import ServeOptions, ServerThread, bind_socket
from agentlightning._internal.serving_protocol import GatheringTransport

LARGE = b"x" * 200_000


class _Recorder(asyncio.Transport):
    """A transport that keeps what it is told, as the loop's own would be told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.seen.append(bytes(data))

    def close(self) -> None:
        self.seen.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.seen


async def test_two_writes_of_a_turn_are_one():
    """A write waits for the next one, but not longer than a turn of the loop."""
    inner = _Recorder()
    transport = GatheringTransport(inner, asyncio.get_running_loop())
    transport.write(b"head ")
    assert inner.seen == []
    transport.write(b"body")
    assert inner.seen == [b"head body"]
    transport.write(b"chunk")
    await asyncio.sleep(0)
    assert inner.seen == [b"head body", b"chunk"]
    transport.write(b"head")
    transport.write(LARGE)
    assert inner.seen[2:] == [b"head", LARGE]


async def test_closing_sends_what_is_held():
    """Nothing is lost and nothing follows when the connection is closed at once."""
    inner = _Recorder()
    transport = GatheringTransport(inner, asyncio.get_running_loop())
    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)
    assert inner.seen == [b"last", "closed"]
    assert transport.is_closing()


async def test_what_was_sent_is_let_go():
    """A connection that stays open does not keep its last answer in memory."""

    inner = _Recorder()
    transport = GatheringTransport(inner, asyncio.get_running_loop())
    piece = bytes(bytearray(LARGE))
    gone = sys.getrefcount(piece)
    transport.write(piece)
    transport.flush()
    assert inner.seen == [LARGE]
    inner.seen.clear()
    assert sys.getrefcount(piece) == gone


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await receive()
    body = LARGE if scope["path"] == "/large" else b"small"
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("path", "body"), [("/small", b"small"), ("/large", LARGE), ("/slow", b"small")]
)
def test_answers_arrive_whole(path: str, body: bytes):
    """A small answer comes in one piece, a large one whole, and a head does not wait for a body."""
    listener = bind_socket("127.0.0.1", 0)
    server = ServerThread(_app, listener, ServeOptions(), name="gathering")
    server.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=10) as connection:
            for _ in range(2):
                connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                first = connection.recv(1_000_000)
                head, _, rest = first.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK")
                if path != "/large":
                    assert rest == (body if path == "/small" else b"")
                while len(rest) < len(body):
                    rest += connection.recv(1_000_000)
                assert rest == body
    finally:
        server.stop()
