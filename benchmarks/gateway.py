"""What the gateway adds to a model call: latency, and requests per second and core.

A null upstream, the gateway and the load each run in a process of their own, in one run, on one
machine; the upstream answers at once, so everything measured is overhead. Calls are recorded in
an in-memory store in the gateway's process.

    python benchmarks/gateway.py [--requests 4000] [--tokens 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import select
import socket
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def null_answer(tokens: int) -> bytes:
    ids = list(range(1000, 1000 + tokens))
    content = [{"token": f"t{i}", "logprob": -i / 977, "bytes": None} for i in ids]
    message = {"role": "assistant", "content": "word " * tokens}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": content},
        "finish_reason": "stop",
        "token_ids": ids,
    }
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    whole = {**answer, "choices": [choice], "prompt_token_ids": ids}
    body = json.dumps(whole, separators=(",", ":")).encode()
    return HEAD % len(body) + body


class NullProtocol(asyncio.Protocol):
    """Answers every request with the same bytes."""

    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        if is_whole(self.received):
            self.received = b""
            self.transport.write(self.answer)


def is_whole(message: bytes) -> bool:
    head_end = message.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    head = message[:head_end].lower()
    at = head.find(b"content-length:")
    size = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
    return len(message) >= head_end + 4 + size


def run_upstream(pipe: Connection, tokens: int) -> None:
    async def serve() -> None:
        NullProtocol.answer = null_answer(tokens)
        server = await asyncio.get_running_loop().create_server(NullProtocol, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def run_gateway(pipe: Connection, upstream_port: int) -> None:
    from agentlightning.gateway.http_upstream import HttpUpstream
    from agentlightning.gateway.models import ModelRoute
    from agentlightning.gateway.server import Gateway
    from agentlightning.gateway.upstream import UpstreamCapabilities
    from agentlightning.store.memory import InMemoryLightningStore

    async def serve() -> None:
        store = InMemoryLightningStore(thread_safe=True)
        rollout = await store.start_rollout(input={"task": 1})
        capabilities = UpstreamCapabilities(token_ids=True, logprobs=True)
        upstream = HttpUpstream(f"http://127.0.0.1:{upstream_port}", capabilities=capabilities)
        gateway = Gateway(store, models={"m": ModelRoute(upstream=upstream, model="m")})
        await gateway.start()
        path = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
        pipe.send((int(gateway.url.rsplit(":", 1)[1]), path))
        await asyncio.to_thread(pipe.recv)
        pipe.send(gateway.stats.recorded)
        await gateway.stop()

    asyncio.run(serve())


def request_bytes(path: str) -> bytes:
    messages = [{"role": "user", "content": "What is the capital of France? " * 8}]
    body = json.dumps({"model": "m", "messages": messages, "temperature": 1.0}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def call(connection: socket.socket, request: bytes) -> float:
    started = time.perf_counter()
    connection.sendall(request)
    received = b""
    while not is_whole(received):
        received += connection.recv(1 << 20)
    assert received.startswith(b"HTTP/1.1 200"), received[:300]
    return time.perf_counter() - started


def measure_latency(
    direct: tuple[int, bytes], through: tuple[int, bytes], count: int
) -> tuple[list[float], list[float]]:
    """Call both in turns, so that whatever else the machine does falls on both alike."""
    pairs = [(connect(port), request) for port, request in (direct, through)]
    for connection, request in pairs * 50:
        call(connection, request)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for (connection, request), own in zip(pairs, times, strict=True):
            own.append(call(connection, request))
    for connection, _ in pairs:
        connection.close()
    return times


def measure_throughput(port: int, request: bytes, count: int, connections: int) -> float:
    poll = select.epoll()
    buffers: dict[int, Any] = {}
    for _ in range(connections):
        connection = connect(port)
        poll.register(connection.fileno(), select.EPOLLIN)
        buffers[connection.fileno()] = [connection, b""]
        connection.sendall(request)
    started = time.perf_counter()
    answered = 0
    while answered < count:
        for number, _ in poll.poll():
            buffer = buffers[number]
            buffer[1] += buffer[0].recv(1 << 20)
            if is_whole(buffer[1]):
                assert buffer[1].startswith(b"HTTP/1.1 200"), buffer[1][:300]
                answered += 1
                buffer[1] = b""
                buffer[0].sendall(request)
    seconds = time.perf_counter() - started
    for connection, _ in buffers.values():
        connection.close()
    return count / seconds


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    up_pipe, up_end = context.Pipe()
    upstream = context.Process(target=run_upstream, args=(up_end, options.tokens))
    upstream.start()
    upstream_port = up_pipe.recv()
    gate_pipe, gate_end = context.Pipe()
    gateway = context.Process(target=run_gateway, args=(gate_end, upstream_port))
    gateway.start()
    port, prefix = gate_pipe.recv()
    direct = (upstream_port, request_bytes("/v1/chat/completions"))
    through = (port, request_bytes(f"{prefix}/v1/chat/completions"))

    straight, added = measure_latency(direct, through, options.requests // 4)
    process = psutil.Process(gateway.pid)
    cpu_before = cpu_seconds(process)
    rate = measure_throughput(*through, options.requests, options.connections)
    cpu = cpu_seconds(process) - cpu_before
    direct_rate = measure_throughput(*direct, options.requests, options.connections)
    gate_pipe.send(None)
    recorded = gate_pipe.recv()
    up_pipe.send(None)
    gateway.join()
    upstream.join()
    report = {
        "direct_p50_ms": statistics.median(straight) * 1e3,
        "gateway_p50_ms": statistics.median(added) * 1e3,
        "added_p50_ms": (statistics.median(added) - statistics.median(straight)) * 1e3,
        "gateway_p99_ms": statistics.quantiles(added, n=100)[98] * 1e3,
        "requests_per_second": rate,
        "requests_per_cpu_second": options.requests / cpu,
        "direct_requests_per_second": direct_rate,
        "recorded": recorded,
    }
    print(json.dumps({key: round(value, 3) for key, value in report.items()}, indent=2))


if __name__ == "__main__":
    main()
