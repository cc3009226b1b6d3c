"""One measurement, written for the public surface that 0.3.0 and this package share.

`reference.py` runs this file under the interpreter of each side, so both do literally the same
work. It prints one JSON object on its last line and knows nothing about the side it measures.
"""

import asyncio
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psutil

import agentlightning as agl

SPAN_BATCH = 100
IN_FLIGHT = 16
POST_TIMEOUT_SECONDS = 60.0


def cpu_seconds() -> float:
    """Return CPU seconds of this process, its live children, and those it has reaped."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + reaped.ru_utime + reaped.ru_stime
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system
    return total


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        """Start counting."""
        self.cpu = cpu_seconds()
        self.wall = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Return the seconds so far."""
        wall_seconds = time.perf_counter() - self.wall
        return {"wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds() - self.cpu}


@agl.rollout
def unit_reward_agent(task: Any, prompt_template: agl.PromptTemplate) -> float:
    """Do nothing, successfully."""
    return 1.0


@agl.rollout
def start_latency_agent(task: Any, prompt_template: agl.PromptTemplate) -> float:
    """Return how many seconds ago the task was enqueued."""
    return time.time() - task["enqueued_at"]


async def publish_resources(store: agl.LightningStore) -> None:
    """Publish the one resource that the agents ask for."""
    template = agl.PromptTemplate(template="{question}", engine="f-string")
    await store.add_resources({"prompt": template})


async def wait_finished(store: agl.LightningStore, rollout_ids: list[str]) -> list[Any]:
    """Wait for the rollouts through the public call, retrying until all have ended."""
    finished: list[Any] = []
    while len(finished) < len(rollout_ids):
        finished = list(await store.wait_for_rollouts(rollout_ids=rollout_ids, timeout=10.0))
    return finished


def run_fit(
    agent: Any, algorithm: Callable[..., Awaitable[None]], *, strategy: str, n_runners: int
) -> dict[str, float]:
    """Run `Trainer.fit` to its end and return its wall and CPU seconds."""
    spec: dict[str, Any] = {"type": strategy, "n_runners": n_runners}
    if strategy == "shm":
        spec["main_thread"] = "algorithm"
    # Port 0 is not known to 0.3.0, and its default may be taken by a run that just ended.
    else:
        spec["server_port"] = free_port()
    trainer = agl.Trainer(
        algorithm=agl.algo(algorithm), tracer=agl.OtelTracer(), strategy=spec, n_runners=n_runners
    )
    clock = Clock()
    trainer.fit(agent)
    return clock.read()


def free_port() -> int:
    """Return a TCP port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure_latency(*, strategy: str, count: int, spread_seconds: float = 5.0) -> dict[str, Any]:
    """Measure enqueue to agent start, and agent end to algorithm, one rollout at a time."""
    start: list[float] = []
    end: list[float] = []

    async def algorithm(*, store: agl.LightningStore) -> None:
        await publish_resources(store)
        for index in range(count + 1):
            # Arrivals spread over the five seconds that 0.3.0 sleeps between two polls.
            await asyncio.sleep(0.05 + spread_seconds * (index * 7 % 10) / 10)
            rollout = await store.enqueue_rollout({"enqueued_at": time.time()})
            finished = await wait_finished(store, [rollout.rollout_id])
            seen = time.time()
            spans = await store.query_spans(rollout.rollout_id)
            reward = agl.find_final_reward(list(spans))
            if index > 0 and reward is not None:  # The first includes the fleet's start.
                start.append(reward)
                end.append(seen - finished[0].end_time)

    seconds = run_fit(start_latency_agent, algorithm, strategy=strategy, n_runners=1)
    return {
        "start_ms": milliseconds(start),
        "completion_ms": milliseconds(end),
        "samples": len(start),
        **seconds,
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return median and maximum, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {"p50": 1e3 * ordered[len(ordered) // 2], "max": 1e3 * ordered[-1]}


def measure_rollouts(*, strategy: str, n_runners: int, count: int) -> dict[str, Any]:
    """Measure how fast a full queue of trivial rollouts is emptied."""
    outcome: dict[str, Any] = {}

    async def algorithm(*, store: agl.LightningStore) -> None:
        await publish_resources(store)
        requests = [agl.EnqueueRolloutRequest(input={"index": index}) for index in range(count)]
        begin = time.time()
        rollouts = await store.enqueue_many_rollouts(requests)
        finished = await wait_finished(store, [rollout.rollout_id for rollout in rollouts])
        outcome["enqueue_to_all_seconds"] = time.time() - begin
        outcome["failed"] = sum(rollout.status != "succeeded" for rollout in finished)
        starts: list[float] = []
        for rollout in rollouts:
            attempt = await store.get_latest_attempt(rollout.rollout_id)
            assert attempt is not None
            starts.append(attempt.start_time)
        # From the first claim on: how long an idle poller slept before is another figure.
        outcome["drain_seconds"] = max(r.end_time for r in finished) - min(starts)

    outcome |= run_fit(unit_reward_agent, algorithm, strategy=strategy, n_runners=n_runners)
    succeeded = count - outcome["failed"]
    outcome["rollouts_per_second"] = succeeded / outcome["drain_seconds"]
    return outcome


def make_spans(rollout_id: str, attempt_id: str, count: int) -> list[agl.Span]:
    """Build spans with fourteen attributes, as a chat-completion call has."""
    attributes: dict[str, Any] = {f"gen_ai.attribute.{index}": f"v-{index}" for index in range(14)}
    now = time.time()
    return [
        agl.Span.from_attributes(
            attributes=attributes,
            rollout_id=rollout_id,
            attempt_id=attempt_id,
            sequence_id=index + 1,
            name="openai.chat.completion",
            start_time=now,
            end_time=now,
        )
        for index in range(count)
    ]


async def measure_spans_on(store: agl.LightningStore, count: int) -> dict[str, Any]:
    """Measure span writes one by one, several in flight, and in batches."""
    result: dict[str, Any] = {}

    async def timed(name: str, write: Callable[[list[agl.Span]], Awaitable[None]]) -> None:
        attempted = await store.start_rollout({"measure": name})
        spans = make_spans(attempted.rollout_id, attempted.attempt.attempt_id, count)
        clock = Clock()
        await write(spans)
        seconds = clock.read()
        stored = await store.query_spans(attempted.rollout_id, limit=1)
        total = getattr(stored, "total", len(stored))
        if total != count:
            raise RuntimeError(f"{name}: {total} of {count} spans were stored")
        result[name] = {"spans_per_second": count / seconds["wall_seconds"], **seconds}

    async def one_by_one(spans: list[agl.Span]) -> None:
        for span in spans:
            await store.add_span(span)

    async def in_flight(spans: list[agl.Span]) -> None:
        async def lane(part: list[agl.Span]) -> None:
            await one_by_one(part)

        await asyncio.gather(*(lane(spans[index::IN_FLIGHT]) for index in range(IN_FLIGHT)))

    async def batches(spans: list[agl.Span]) -> None:
        for index in range(0, len(spans), SPAN_BATCH):
            await store.add_many_spans(spans[index : index + SPAN_BATCH])

    await timed("add_span", one_by_one)
    await timed(f"add_span, {IN_FLIGHT} in flight", in_flight)
    await timed(f"add_many_spans of {SPAN_BATCH}", batches)
    return result


def measure_spans_in_process(*, count: int) -> dict[str, Any]:
    """Measure span writes into the in-memory store of this process."""
    return asyncio.run(measure_spans_on(agl.InMemoryLightningStore(), count))


def otlp_body(rollout_id: str, attempt_id: str, spans: list[agl.Span]) -> bytes:
    """Encode spans as one OTLP export request."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in (("rollout_id", rollout_id), ("attempt_id", attempt_id)):
        attribute = group.resource.attributes.add()
        attribute.key = f"agentlightning.{key}"
        attribute.value.string_value = value
    scope = group.scope_spans.add()
    for span in spans:
        message = scope.spans.add()
        message.trace_id = bytes.fromhex(span.trace_id)
        message.span_id = bytes.fromhex(span.span_id)
        message.name = span.name
        message.start_time_unix_nano = int((span.start_time or 0.0) * 1e9)
        message.end_time_unix_nano = int((span.end_time or 0.0) * 1e9)
        for key, value in span.attributes.items():
            attribute = message.attributes.add()
            attribute.key = key
            attribute.value.string_value = str(value)
    return request.SerializeToString()


async def measure_otlp(client: agl.LightningStoreClient, count: int) -> dict[str, Any]:
    """Post ready-made OTLP bodies, one after the other."""
    import aiohttp

    attempted = await client.start_rollout({"measure": "otlp"})
    ids = (attempted.rollout_id, attempted.attempt.attempt_id)
    spans = make_spans(*ids, count)
    bodies = [
        otlp_body(*ids, spans[index : index + SPAN_BATCH])
        for index in range(0, len(spans), SPAN_BATCH)
    ]
    headers = {"Content-Type": "application/x-protobuf"}
    timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        clock = Clock()
        for body in bodies:
            url = client.otlp_traces_endpoint()
            async with session.post(url, data=body, headers=headers) as reply:
                reply.raise_for_status()
                await reply.read()
        seconds = clock.read()
    stored = await client.query_spans(attempted.rollout_id, limit=1)
    total = getattr(stored, "total", len(stored))
    if total != count:
        raise RuntimeError(f"otlp: {total} of {count} spans were stored")
    return {"spans_per_second": count / seconds["wall_seconds"], **seconds}


def measure_spans_over_http(*, count: int) -> dict[str, Any]:
    """Measure span writes into a store server in another process."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", json.dumps({"port": port})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdout.readline()

    async def measure() -> dict[str, Any]:
        client = agl.LightningStoreClient(f"http://127.0.0.1:{port}")
        try:
            result = await measure_spans_on(client, count)
            result[f"OTLP of {SPAN_BATCH}"] = await measure_otlp(client, count)
        finally:
            await client.close()
        return result

    try:
        return asyncio.run(measure())
    finally:
        server.stdin.close()
        server.wait(timeout=60)


def serve(*, port: int) -> dict[str, Any]:
    """Serve an in-memory store until standard input closes."""

    async def run() -> None:
        store = agl.InMemoryLightningStore(thread_safe=True)
        server = agl.LightningStoreServer(store, host="127.0.0.1", port=port)
        await server.start()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()

    asyncio.run(run())
    return {}


MEASURES: dict[str, Callable[..., dict[str, Any] | Coroutine[Any, Any, Any]]] = {
    "latency": measure_latency,
    "rollouts": measure_rollouts,
    "spans-in-process": measure_spans_in_process,
    "spans-over-http": measure_spans_over_http,
    "serve": serve,
}


def main() -> None:
    """Run the measure that the command line names and print its result."""
    logging.disable(logging.WARNING)
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    result = MEASURES[name](**arguments)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
