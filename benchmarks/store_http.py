"""Speed of the store over HTTP: one server process, one client process, one machine.

Run it with the repository's Python: `python benchmarks/store_http.py [memory|sqlite]`. Rates
depend on what else the machine does; the CPU time per item, on either side, hardly does.
"""

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout, CallChoice, CallRecord, Span

CONCURRENCY = 8


def serve(backend: str, channel: Any) -> None:
    async def run() -> None:
        from agentlightning.store.url import open_store

        with tempfile.TemporaryDirectory() as folder:
            store = open_store("memory://" if backend == "memory" else f"sqlite:///{folder}/a.db")
            server = LightningStoreServer(store, port=0)
            await server.start()
            channel.send(server.endpoint)
            await asyncio.to_thread(channel.recv)
            await server.stop()
            await store.close()

    asyncio.run(run())


def small_span(claim: AttemptedRollout) -> Span:
    return Span.from_attributes(
        attributes={"text": "x" * 200, "count": 1, "share": 2.5},
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
        name="step",
        start_time=1.0,
        end_time=2.0,
    )


def call_span(claim: AttemptedRollout, index: int) -> Span:
    choice = CallChoice(token_ids=list(range(500)), logprobs=[-0.1] * 500)
    return CallRecord(
        call_id=f"ca-{index:016x}",
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
        start_time=1,
        end_time=2,
        prompt_token_ids=list(range(1500)),
        choices=[choice],
    ).to_span()


async def measure(
    name: str,
    call: Callable[[int], Awaitable[Any]],
    count: int,
    server: psutil.Process,
    items: int = 1,
) -> None:
    left = iter(range(count))

    async def worker() -> None:
        for index in left:
            await call(index)

    server_before = sum(server.cpu_times()[:2])
    own_before, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    seconds, own = time.perf_counter() - began, time.process_time() - own_before
    served = sum(server.cpu_times()[:2]) - server_before
    total = count * items
    print(
        f"{name:28} {total / seconds:9.0f} /s   client {own / total * 1e6:5.0f} µs"
        f"   server {served / total * 1e6:5.0f} µs"
    )


async def latency(name: str, wait: Callable[[], Any], trigger: Callable[[], Any]) -> None:
    async def timed() -> float:
        await wait()
        return time.perf_counter()

    found: list[float] = []
    for _ in range(60):
        waiting = asyncio.create_task(timed())
        await asyncio.sleep(0.02)
        began = time.perf_counter()
        await trigger()
        found.append((await waiting - began) * 1e3)
    found.sort()
    print(f"{name:28} p50 {found[30]:.1f} ms   p95 {found[57]:.1f} ms")


async def main(address: str, server: psutil.Process) -> None:
    client = LightningStoreClient(address)
    claim = await client.start_rollout("spans")
    singles = [small_span(claim) for _ in range(1000)]
    bulks = [[small_span(claim) for _ in range(200)] for _ in range(25)]
    calls = [[call_span(claim, 20 * i + k) for k in range(20)] for i in range(10)]
    await measure("health", lambda _: client.is_healthy(), 1500, server)
    await measure("add_span", lambda i: client.add_span(singles[i]), 1000, server)
    await measure("add_many_spans, 200", lambda i: client.add_many_spans(bulks[i]), 25, server, 200)
    await measure("model calls, 20", lambda i: client.add_many_spans(calls[i]), 10, server, 20)
    stored = len(await client.query_spans(claim.rollout_id))
    await measure("query_spans", lambda _: client.query_spans(claim.rollout_id), 1, server, stored)
    await measure("enqueue", lambda i: client.enqueue_rollout({"i": i}), 800, server)

    async def cycle(index: int) -> None:
        claimed = await client.dequeue_rollout(f"w-{index % 8}")
        assert claimed is not None
        attempt_id = claimed.attempt.attempt_id
        await client.update_attempt(claimed.rollout_id, attempt_id, status="succeeded")

    await measure("dequeue and settle", cycle, 800, server)
    await latency(
        "enqueue to claim",
        lambda: client.dequeue_rollout("w", wait_seconds=10),
        lambda: client.enqueue_rollout("work"),
    )
    await client.close()


if __name__ == "__main__":
    backend = sys.argv[1] if len(sys.argv) > 1 else "memory"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(backend, theirs))
    process.start()
    address = ours.recv()
    asyncio.run(main(address, psutil.Process(process.pid)))
    ours.send("stop")
    process.join()
