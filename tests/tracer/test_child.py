"""Spans of child processes arrive at the attempt of the agent that started them, late ones too."""

import asyncio
import multiprocessing
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from agentlightning.adapter.rewards import find_final_reward
from agentlightning.emitter import emit_message, emit_reward, span
from agentlightning.errors import ConfigurationError, TracerError
from agentlightning.settings import agent_environment
from agentlightning.store.http.client import LightningStoreClient
from agentlightning.store.http.server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.child import continue_trace, trace_environment
from agentlightning.tracer.otel import OtelTracer

OURS = """
from agentlightning.emitter import emit_reward
from agentlightning.tracer.child import continue_trace
with continue_trace():
    emit_reward(0.5)
"""
THEIRS = """
import os, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
parent = TraceContextTextMapPropagator().extract({"traceparent": os.environ["TRACEPARENT"]})
tracer = provider.get_tracer("theirs")
tracer.start_span("in time", context=parent).end()
slow = tracer.start_span("too late", context=parent)
print("ready", flush=True)
sys.stdin.readline()
slow.end()
"""


@dataclass
class Place:
    """A store behind a server, a tracer that writes to it, and one attempt."""

    client: LightningStoreClient
    tracer: OtelTracer
    ids: dict[str, str]

    async def spans(self):
        return {s.name: s for s in await self.client.query_spans(**self.ids)}


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    server = LightningStoreServer(InMemoryLightningStore(), "127.0.0.1", 0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    tracer = OtelTracer()
    rollout = await client.start_rollout(input={})
    ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
    with tracer.lifespan(client):
        yield Place(client, tracer, ids)
    await client.close()
    await server.stop()


async def start_child(program: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**agent_environment(), **trace_environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def test_a_child_with_this_package(place: Place):
    """Emitters work in the child; its spans are below the one that was current at its start."""
    async with place.tracer.trace_context(**place.ids):
        with span("parent") as parent:
            child = await start_child(OURS)
        assert await child.wait() == 0
    spans = await place.spans()
    assert spans["agentlightning.annotation"].parent_id == parent.id
    assert len({s.trace_id for s in spans.values()}) == 1
    assert find_final_reward([*spans.values()]) == 0.5


async def test_a_child_with_any_opentelemetry_sdk(place: Place):
    """Its exporter finds the attempt; a span that ends after the attempt is kept as late."""
    async with place.tracer.trace_context(**place.ids):
        with span("parent") as parent:
            child = await start_child(THEIRS)
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
    await place.client.update_attempt(**place.ids, status="succeeded")
    await child.communicate(b"end\n")
    assert child.returncode == 0
    spans = await place.spans()
    in_time, late = spans["in time"], spans["too late"]
    assert in_time.parent_id == late.parent_id == parent.id
    assert "agentlightning.late" not in in_time.attributes
    assert late.attributes["agentlightning.late"] is True
    assert in_time.trace_id == spans["agentlightning.operation"].trace_id


async def test_a_task_that_outlives_its_attempt(place: Place):
    """What ends in the agent's own process after the settlement is late as well, and counted."""
    async with place.tracer.trace_context(**place.ids):
        gate = asyncio.Event()

        async def go_on() -> None:
            await gate.wait()
            emit_message("late")

        task = asyncio.create_task(go_on())
    await place.client.update_attempt(**place.ids, status="succeeded")
    gate.set()
    await task
    assert await place.tracer.flush(**place.ids)
    (late,) = (await place.spans()).values()
    assert late.attributes["agentlightning.late"] is True
    assert place.tracer.export_counts(**place.ids) == (1, 0)


def emit_in_child(environment: dict[str, str]) -> None:
    """Run in a forked process, which has copies of the parent's tracer and context."""
    with continue_trace(environment):
        emit_reward(0.25)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
async def test_a_forked_child(place: Place):
    """A child that inherits the context delivers by a connection of its own."""
    async with place.tracer.trace_context(**place.ids):
        emit_message("before")
        child = multiprocessing.get_context("fork").Process(
            target=emit_in_child, args=(trace_environment(),)
        )
        child.start()
        await asyncio.to_thread(child.join, 30)
    assert child.exitcode == 0
    assert set(await place.spans()) == {"agentlightning.message", "agentlightning.annotation"}
    assert place.tracer.export_counts(**place.ids) == (1, 0)


async def test_outside_of_attempts(tracer, store, begin):
    """Without an attempt there is nothing to hand on, and without a server nowhere to send."""
    with pytest.raises(TracerError, match="inside an agent"):
        trace_environment()
    with pytest.raises(ConfigurationError, match="No attempt to continue"), continue_trace({}):
        pass
    tracer.init_worker(0, store)
    async with tracer.trace_context(**await begin(store)):
        found = trace_environment()
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" not in found
    with pytest.raises(ConfigurationError, match="No store to reach"), continue_trace(found):
        pass
