"""A model server that answers at once, and clients that cost next to nothing, for `gateway.py`.

Both read only as much of HTTP as they need, so that what is measured is what lies between them.
"""

import json
import multiprocessing
import select
import socket
import time
from asyncio import BaseTransport, Protocol, get_running_loop, run, to_thread
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

TOKENS = 64
END = b"0\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
LATER_SECONDS = 0.02
"""How long after its first event a paced stream sends the others."""


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def whole_answer() -> bytes:
    ids = list(range(1000, 1000 + TOKENS))
    content = [token(i) for i in ids]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "word " * TOKENS},
        "logprobs": {"content": content},
        "finish_reason": "stop",
        "token_ids": ids,
    }
    usage = {"prompt_tokens": TOKENS, "completion_tokens": TOKENS, "total_tokens": 2 * TOKENS}
    body = dump(
        {**head("chat.completion"), "choices": [choice], "usage": usage, "prompt_token_ids": ids}
    )
    return JSON_HEAD % len(body) + body


def token(number: int) -> dict[str, Any]:
    """Return an entry of log-probabilities."""
    return {"token": f"t{number}", "logprob": -number / 977, "bytes": None, "top_logprobs": []}


def head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-x", "object": kind, "created": 1, "model": "m"}


def stream_events() -> list[bytes]:
    """Return one event for each token, as vLLM sends them when ids are asked for."""
    events: list[bytes] = []
    for at in range(TOKENS):
        last = at == TOKENS - 1
        delta: dict[str, Any] = {"content": "word "}
        choice = {
            "index": 0,
            "delta": {"role": "assistant", **delta} if at == 0 else delta,
            "logprobs": {"content": [token(1000 + at)]},
            "finish_reason": "stop" if last else None,
            "token_ids": [1000 + at],
        }
        ids = {"prompt_token_ids": list(range(TOKENS))} if at == 0 else {}
        events.append(
            b"data: " + dump({**head("chat.completion.chunk"), "choices": [choice], **ids})
        )
    return [*events, b"data: [DONE]"]


def chunked(event: bytes) -> bytes:
    data = event + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class NullServer(Protocol):
    """Answers every request with the same bytes; a path ending in /paced/… has its stream paced."""

    whole = whole_answer()
    first = STREAM_HEAD + chunked(stream_events()[0])
    rest = b"".join(chunked(event) for event in stream_events()[1:]) + END
    pace = False

    def connection_made(self, transport: BaseTransport) -> None:
        self.transport: Any = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not request_is_whole(self.received):
            return
        is_stream = b'"stream":true' in self.received or b'"stream": true' in self.received
        is_paced = b"paced" in self.received
        self.received = b""
        if not is_stream:
            self.transport.write(self.whole)
        elif not is_paced:
            self.transport.write(self.first + self.rest)
        else:
            self.transport.write(self.first)
            get_running_loop().call_later(LATER_SECONDS, self.transport.write, self.rest)


def request_is_whole(message: bytes) -> bool:
    head_end = message.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    at = message[:head_end].lower().find(b"content-length:")
    size = int(message[at + 15 : message.find(b"\r\n", at)]) if at >= 0 else 0
    return len(message) >= head_end + 4 + size


def answer_is_whole(message: bytes) -> bool:
    head_end = message.find(b"\r\n\r\n")
    if b"chunked" in message[: max(head_end, 0)].lower():
        return message.endswith(END)
    return request_is_whole(message)


def run_upstream(pipe: Connection) -> None:
    async def serve() -> None:
        server = await get_running_loop().create_server(NullServer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await to_thread(pipe.recv)

    run(serve())


class Upstream:
    """The null server in a process of its own."""

    def __enter__(self) -> int:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=run_upstream, args=(end,))
        self._process.start()
        return self._pipe.recv()

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()


@dataclass(frozen=True)
class Target:
    """Where calls go."""

    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, *, stream: bool, paced: bool = False) -> bytes:
        words = "paced " if paced else "What is the capital of France? "
        body: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": words * 8}],
            "temperature": 1.0,
        }
        data = dump({**body, "stream": True} if stream else body)
        lines = [f"POST {self.path} HTTP/1.1", "host: x", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def call(connection: socket.socket, request: bytes) -> tuple[float, float]:
    """Return the seconds to the first event (or byte of the body) and to the end."""
    started = time.perf_counter()
    connection.sendall(request)
    received = b""
    first = 0.0
    while not answer_is_whole(received):
        piece = connection.recv(1 << 20)
        assert piece, received[:300]
        received += piece
        if not first and (b"data: {" in received or b"\r\n\r\n{" in received):
            first = time.perf_counter() - started
    assert received.startswith(b"HTTP/1.1 200"), received[:600]
    return first, time.perf_counter() - started


def measure_latency(
    targets: list[Target], seconds: float, *, stream: bool, paced: bool = False
) -> list[list[tuple[float, float]]]:
    """Call all targets by turns, so that whatever else the machine does falls on all alike."""
    requests = [target.request(stream=stream, paced=paced) for target in targets]
    connections = [connect(target.port) for target in targets]
    for connection, request in list(zip(connections, requests, strict=True)) * 5:
        call(connection, request)
    times: list[list[tuple[float, float]]] = [[] for _ in targets]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 20:
        for connection, request, own in zip(connections, requests, times, strict=True):
            own.append(call(connection, request))
    for connection in connections:
        connection.close()
    return times


def measure_rate(
    target: Target, seconds: float, clients: int, *, stream: bool
) -> tuple[int, float]:
    """Return how many calls were answered, and within how many seconds."""
    request = target.request(stream=stream)
    poll = select.epoll()
    buffers: dict[int, list[Any]] = {}
    for _ in range(clients):
        connection = connect(target.port)
        poll.register(connection.fileno(), select.EPOLLIN)
        buffers[connection.fileno()] = [connection, b""]
        connection.sendall(request)
    started = time.perf_counter()
    answered = 0
    while (now := time.perf_counter()) < started + seconds or answered < clients:
        for number, _ in poll.poll(1.0):
            buffer = buffers[number]
            piece = buffer[0].recv(1 << 20)
            buffer[1] += piece
            assert piece, buffer[1][:300]
            if answer_is_whole(buffer[1]):
                assert buffer[1].startswith(b"HTTP/1.1 200"), buffer[1][:600]
                answered += 1
                buffer[1] = b""
                buffer[0].sendall(request)
    for connection, _ in buffers.values():
        connection.close()
    return answered, now - started
