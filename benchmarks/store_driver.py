"""Measurements of a store, written for the public surface that 0.3.0 and this package share.

`store.py` runs this file under the interpreter of each side, so both do literally the same work.
It prints the results as JSON on its last line. Where a call of 0.3.0 cannot wait, its runner's way of
waiting (look, sleep five seconds) stands in.
"""

import asyncio
import gc
import inspect
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psutil

import agentlightning as agl

BATCH = 100
SPANS_PER_ROLLOUT = 1000
POLL_SECONDS = 5.0
"""How long a runner of 0.3.0 sleeps when it has found no work."""

LONGEST_WAIT_SECONDS = 0.09
"""What the client of 0.3.0 allows."""


class Meter:
    """Wall time, and CPU time of this process and of a server's."""

    def __init__(self, server: psutil.Process | None = None) -> None:
        self._server = server
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        served = sum(self._server.cpu_times()[:2]) if self._server else 0.0
        return time.perf_counter(), time.process_time(), served

    def read(self, items: int) -> dict[str, float]:
        """Return the rate, and microseconds of CPU for each item."""
        wall, own, served = (now - then for now, then in zip(self._now(), self._began, strict=True))
        found = {"per_second": items / wall, "cpu_us": 1e6 * own / items}
        return found | ({"server_cpu_us": 1e6 * served / items} if self._server else {})


def open_store(backend: str, folder: str) -> Any:
    """Open an empty store in this process."""
    if backend == "memory":
        return agl.InMemoryLightningStore(thread_safe=True)
    from agentlightning.store.sqlite import SQLiteLightningStore

    return SQLiteLightningStore(f"{folder}/store.db")


@asynccontextmanager
async def opened(backend: str) -> AsyncIterator[Any]:
    """Open a store in this process, and close it where that is possible."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(backend, folder)
        try:
            yield store
        finally:
            if hasattr(store, "close"):
                await store.close()


@contextmanager
def served(backend: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a store server in a process of its own; yield its address and process."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, __file__, json.dumps([("serve", {"port": port, "backend": backend})])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline().strip() == b"ready", "the server did not start"
        yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


def free_port() -> int:
    """Return a TCP port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_span(rollout_id: str, attempt_id: str, number: int) -> agl.Span:
    """Build a span of 14 attributes as a model call leaves it, no two alike."""
    attributes: dict[str, Any] = {
        "gen_ai.system": "openai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "a-model-of-some-name",
        "gen_ai.response.model": "a-model-of-some-name-2026-01-01",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.max_tokens": 1024,
        "gen_ai.response.id": f"chatcmpl-{number:024x}",
        "gen_ai.usage.prompt_tokens": 100 + number % 900,
        "gen_ai.usage.completion_tokens": number % 300,
        "gen_ai.completion.0.finish_reason": "stop",
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": f"What is {number} plus {number + 1}, and why is that so?",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": f"It is {2 * number + 1}, because addition says so.",
    }
    now = 1_700_000_000.0 + number / 1000
    return agl.Span.from_attributes(
        attributes=attributes,
        rollout_id=rollout_id,
        attempt_id=attempt_id,
        sequence_id=number % SPANS_PER_ROLLOUT + 1,
        name="openai.chat.completion",
        start_time=now,
        end_time=now + 0.5,
    )


async def make_spans(store: Any, count: int, per: int = SPANS_PER_ROLLOUT) -> list[agl.Span]:
    """Start rollouts, and build their spans, `per` for each."""
    spans: list[agl.Span] = []
    while len(spans) < count:
        rollout = await store.start_rollout({"spans": per})
        ids = (rollout.rollout_id, rollout.attempt.attempt_id)
        start = len(spans)
        spans += [make_span(*ids, n) for n in range(start, min(start + per, count))]
    return spans


async def cycle(store: Any, index: int) -> None:
    """Do what every rollout goes through at least."""
    await store.enqueue_rollout({"index": index})
    claim = await store.dequeue_rollout(worker_id="w")
    await store.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")


async def life_cycles(store: Any, count: int, meter: Callable[[], Meter]) -> dict[str, float]:
    """Measure life cycles one after the other."""
    for index in range(min(50, count)):
        await cycle(store, index)
    running = meter()
    for index in range(count):
        await cycle(store, index)
    return running.read(count)


async def measure_life_cycle(*, backend: str, count: int) -> dict[str, float]:
    async with opened(backend) as store:
        return await life_cycles(store, count, Meter)


async def measure_batches(*, backend: str, count: int) -> dict[str, Any]:
    async with opened(backend) as store:
        requests = [agl.EnqueueRolloutRequest(input={"index": n}) for n in range(count)]
        meter = Meter()
        for start in range(0, count, BATCH):
            await store.enqueue_many_rollouts(requests[start : start + BATCH])
        enqueue = meter.read(count)
        meter = Meter()
        claimed = 0
        while claims := await store.dequeue_many_rollouts(limit=BATCH, worker_id="w"):
            claimed += len(claims)
        dequeue = meter.read(count)
    assert claimed == count
    return {"enqueue": enqueue, "dequeue": dequeue}


async def write_spans(store: Any, spans: list[agl.Span], size: int) -> None:
    if size == 1:
        for span in spans:
            await store.add_span(span)
    for start in range(0, len(spans) if size > 1 else 0, size):
        await store.add_many_spans(spans[start : start + size])


async def measure_spans(*, backend: str, count: int, size: int) -> dict[str, float]:
    async with opened(backend) as store:
        spans = await make_spans(store, count)
        meter = Meter()
        await write_spans(store, spans, size)
        return meter.read(count)


async def measure_http_life_cycle(*, backend: str, count: int, clients: int) -> dict[str, float]:
    with served(backend) as (address, server):
        stores = [agl.LightningStoreClient(address) for _ in range(clients)]
        for store in stores:
            await cycle(store, 0)
        meter = Meter(server)

        async def lane(store: Any) -> None:
            for index in range(count // clients):
                await cycle(store, index)

        await asyncio.gather(*(lane(store) for store in stores))
        found = meter.read(count // clients * clients)
        for store in stores:
            await store.close()
        return found


async def measure_http_spans(*, backend: str, count: int, size: int) -> dict[str, float]:
    with served(backend) as (address, server):
        store = agl.LightningStoreClient(address)
        spans = await make_spans(store, count)
        meter = Meter(server)
        await write_spans(store, spans, size)
        found = meter.read(count)
        await store.close()
        return found


def finished_otel_spans(ids: tuple[str, str], count: int) -> list[Any]:
    """Record spans with OpenTelemetry's own SDK, as any program would."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    names = ("agentlightning.rollout_id", "agentlightning.attempt_id")
    provider = TracerProvider(resource=Resource(dict(zip(names, ids, strict=True))))
    tracer = provider.get_tracer("benchmark")
    spans: list[Any] = []
    for number in range(count):
        span = tracer.start_span("openai.chat.completion")
        span.set_attributes(make_span(*ids, number).attributes)
        span.end()
        spans.append(span)
    return spans


async def measure_otlp(*, backend: str, count: int, size: int) -> dict[str, float]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    with served(backend) as (address, server):
        store = agl.LightningStoreClient(address)
        rollout = await store.start_rollout({"otlp": count})
        spans = finished_otel_spans((rollout.rollout_id, rollout.attempt.attempt_id), count)
        exporter = OTLPSpanExporter(endpoint=store.otlp_traces_endpoint())
        meter = Meter(server)
        for start in range(0, count, size):
            result = exporter.export(spans[start : start + size])
            assert result is SpanExportResult.SUCCESS
        found = meter.read(count)
        stored = await store.query_spans(rollout.rollout_id, limit=1)
        assert stored.total == count
        exporter.shutdown()
        await store.close()
        return found


async def times(call: Callable[[], Awaitable[Any]], repeats: int) -> dict[str, float]:
    """Return the median duration of a call."""
    found: list[float] = []
    await call()
    for _ in range(repeats):
        began = time.perf_counter()
        await call()
        found.append(1e3 * (time.perf_counter() - began))
    return {"ms": sorted(found)[repeats // 2]}


async def measure_last_spans(*, backend: str, count: int, repeats: int) -> dict[str, float]:
    async with opened(backend) as store:
        spans = await make_spans(store, count, per=count)
        await write_spans(store, spans, 1000)
        rollout_id = spans[0].rollout_id

        async def ask() -> None:
            last = await store.query_spans(
                rollout_id, sort_by="start_time", sort_order="desc", limit=10
            )
            assert last[0].span_id == spans[-1].span_id

        return await times(ask, repeats)


async def measure_http_query(*, backend: str, count: int, repeats: int) -> dict[str, float]:
    with served(backend) as (address, _):
        store = agl.LightningStoreClient(address)
        spans = await make_spans(store, count, per=count)
        await write_spans(store, spans, BATCH)

        async def ask() -> None:
            assert len(await store.query_spans(spans[0].rollout_id)) == count

        found = await times(ask, repeats)
        await store.close()
        return found


async def measure_first_rollouts(*, backend: str, count: int, repeats: int) -> dict[str, float]:
    async with opened(backend) as store:
        requests = [agl.EnqueueRolloutRequest(input={"index": n}) for n in range(count)]
        await store.enqueue_many_rollouts(requests)

        async def ask() -> None:
            page = await store.query_rollouts(sort_by="start_time", sort_order="desc", limit=100)
            assert len(page) == min(100, count)

        return await times(ask, repeats)


async def fill(store: Any, count: int) -> None:
    """Store spans without keeping any."""
    for start in range(0, count, SPANS_PER_ROLLOUT):
        spans = await make_spans(store, min(SPANS_PER_ROLLOUT, count - start))
        await write_spans(store, spans, BATCH)
    gc.collect()


async def measure_memory(*, backend: str, count: int) -> dict[str, float]:
    async with opened(backend) as store:
        await fill(store, SPANS_PER_ROLLOUT)
        before = psutil.Process().memory_info().rss
        await fill(store, count)
        grown = psutil.Process().memory_info().rss - before
        return {"mb_per_100k": grown / count / 10}


async def measure_server_memory(*, backend: str, count: int) -> dict[str, float]:
    with served(backend) as (address, server):
        store = agl.LightningStoreClient(address)
        await fill(store, SPANS_PER_ROLLOUT)
        before = server.memory_info().rss
        await fill(store, count)
        grown = server.memory_info().rss - before
        await store.close()
        return {"mb_per_100k": grown / count / 10}


async def next_claim(store: Any) -> Any:
    """Wait for work as this side's runner does."""
    if "wait_seconds" in inspect.signature(store.dequeue_rollout).parameters:
        return await store.dequeue_rollout("w", wait_seconds=30.0)
    while True:
        claim = await store.dequeue_rollout("w")
        if claim is not None:
            return claim
        await asyncio.sleep(POLL_SECONDS)


async def next_end(store: Any, rollout_ids: list[str]) -> Any:
    """Wait for rollouts to end; the client of 0.3.0 refuses long waits, so it asks again."""
    seconds = 20.0
    while True:
        try:
            ended = await store.wait_for_rollouts(rollout_ids=rollout_ids, timeout=seconds)
        except ValueError:
            seconds = LONGEST_WAIT_SECONDS
            continue
        if ended:
            return ended


async def wake_ups(waiter: Any, trigger: Any, count: int) -> dict[str, Any]:
    """Measure from an enqueue to the claim, and from an end to whoever waits for it."""
    polls = "wait_seconds" not in inspect.signature(waiter.dequeue_rollout).parameters
    starts: list[float] = []
    ends: list[float] = []

    async def clocked(waiting: Awaitable[Any]) -> tuple[Any, float]:
        return await waiting, time.perf_counter()

    for index in range(count):
        claiming = asyncio.create_task(clocked(next_claim(waiter)))
        # Where somebody polls, the work comes at different moments of the pause.
        await asyncio.sleep(0.05 + (POLL_SECONDS * (index * 7 % 10) / 10 if polls else 0.0))
        began = time.perf_counter()
        rollout = await trigger.enqueue_rollout({"index": index})
        claim, at = await claiming
        starts.append(1e3 * (at - began))
        ids = [rollout.rollout_id]
        waiting = asyncio.create_task(clocked(next_end(waiter, ids)))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        await trigger.update_attempt(*ids, claim.attempt.attempt_id, status="succeeded")
        finished, at = await waiting
        assert len(finished) == 1
        ends.append(1e3 * (at - began))
    return {"start": spread(starts), "end": spread(ends)}


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the maximum."""
    ordered = sorted(values)
    return {"ms": ordered[len(ordered) // 2], "max_ms": ordered[-1]}


async def measure_wake_ups(*, backend: str, count: int) -> dict[str, Any]:
    async with opened(backend) as store:
        return await wake_ups(store, store, count)


async def measure_http_wake_ups(*, backend: str, count: int) -> dict[str, Any]:
    with served(backend) as (address, _):
        waiter, trigger = agl.LightningStoreClient(address), agl.LightningStoreClient(address)
        found = await wake_ups(waiter, trigger, count)
        await waiter.close()
        await trigger.close()
        return found


async def serve(*, backend: str, port: int) -> dict[str, Any]:
    """Serve a store until standard input closes."""
    async with opened(backend) as store:
        # In a thread, as both sides do by default, and on the event loop that each chooses there.
        server = agl.LightningStoreServer(store, host="127.0.0.1", port=port, launch_mode="thread")
        await server.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()
    return {}


MEASURES: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "life-cycle": measure_life_cycle,
    "batches": measure_batches,
    "spans": measure_spans,
    "http-life-cycle": measure_http_life_cycle,
    "http-spans": measure_http_spans,
    "otlp": measure_otlp,
    "last-spans": measure_last_spans,
    "http-query": measure_http_query,
    "first-rollouts": measure_first_rollouts,
    "memory": measure_memory,
    "server-memory": measure_server_memory,
    "wake-ups": measure_wake_ups,
    "http-wake-ups": measure_http_wake_ups,
    "serve": serve,
}


async def measure(name: str, arguments: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    """Run one measure; among several, one that fails is a result that says so."""
    if alone:
        return await MEASURES[name](**arguments)
    try:
        return await MEASURES[name](**arguments)
    except Exception as error:  # noqa: BLE001 - boundary: a failed measure is a result.
        return {"error": f"{name}: {type(error).__name__}: {error}"}


def main() -> None:
    """Run the measures that the command line names as `[[name, arguments], ...]`."""
    logging.disable(logging.WARNING)
    calls = json.loads(sys.argv[1])
    found = [asyncio.run(measure(*call, alone=len(calls) == 1)) for call in calls]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
