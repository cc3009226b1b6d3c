"""A gateway in processes of its own, against a store that processes can share."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.budget import CallBudget
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.process import GatewayProcesses, GatewaySpec
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from tests.gateway.proxy_process import Broken, Stamp
from tests.gateway.running import ALL, HELLO, Running
from tests.support.model_server import Answer, ModelServer


def route(server: ModelServer) -> ModelRoute:
    return ModelRoute(upstream=HttpUpstream(server.endpoint, capabilities=ALL), model="real-m")


@asynccontextmanager
async def serving(
    server: ModelServer, n_workers: int = 1, **options: Any
) -> AsyncGenerator[Running]:
    store = LightningStoreServer(InMemoryLightningStore(thread_safe=True), port=0)
    await store.start()
    rollout = await store.start_rollout(input="task")
    spec = GatewaySpec(store=store, models={"m": route(server)}, **options)
    gateway: Any = GatewayProcesses(spec, n_workers=n_workers)
    await gateway.start()
    try:
        yield Running(gateway, store, server, rollout.rollout_id, rollout.attempt.attempt_id)
    finally:
        await gateway.stop()
        await store.stop()


async def ask(run: Running, **options: Any) -> str:
    async with run.client(**options) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)
        return answer.choices[0].message.content or ""


async def seal(run: Running, timeout: float = 5.0) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{run.attempt_url}/seal", json={"timeout": timeout})
    return answer.json()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_workers_know_each_others_responses(server: ModelServer) -> None:
    """Whichever process a connection reaches, it goes on from a response, gives it and deletes it."""
    async with serving(server, n_workers=2) as run:
        previous, counts = "", list[int]()
        for at in range(12):
            # A connection of its own each time, which the system gives to either process.
            async with run.client() as client:
                made = await client.responses.create(
                    model="m", input=f"turn {at}", previous_response_id=previous or None
                )
                previous = made.id
                counts.append(len(server.calls[-1].request["messages"]))
            async with run.client() as client:
                assert (await client.responses.retrieve(previous)).output_text == "hello"
        async with run.client() as client:
            await client.responses.delete(previous)
        for _ in range(8):
            async with run.client() as client:
                with pytest.raises(openai.NotFoundError):
                    await client.responses.retrieve(previous)
    assert counts == [*range(1, 24, 2)]


async def test_a_process_serves_and_obeys(server: ModelServer) -> None:
    """Calls are recorded through the store's server; models change, pauses hold, counts are told."""
    async with serving(server, middlewares=(Stamp,)) as run:
        assert await ask(run) == "hello"
        record = await run.record()
        assert record.choices[0].token_ids == server.calls[0].token_ids[0]
        with ModelServer(Answer(text="new")) as other:
            run.gateway.set_models({"m": route(other)})
            assert await ask(run) == "new"
        run.gateway.set_models({"m": route(server)})
        await run.gateway.pause()
        held = asyncio.create_task(ask(run))
        assert await run.gateway.drain(1.0)
        await asyncio.sleep(0.1)
        assert not held.done()
        run.gateway.resume()
        assert await held == "hello"
        assert run.gateway.stats.recorded == 3
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{run.gateway.url}/health")
        assert answer.headers["x-stamp"] == "seen"
    assert not run.gateway.is_running
    with pytest.raises(GatewayError, match="start"):
        _ = run.gateway.stats


async def test_several_processes_seal_together(server: ModelServer) -> None:
    """Calls that different processes serve are counted and waited for, whichever is asked."""
    server.script = Answer(delay_seconds=0.3)
    async with serving(server, n_workers=2) as run:
        started, served = 0, [0]
        # The system chooses who gets a connection: go on until each process had one.
        while not all(served) and started < 240:
            busy = [asyncio.create_task(ask(run)) for _ in range(12)]
            started += len(busy)
            while len(server.calls) < started:
                await asyncio.sleep(0.02)
            sealed = await asyncio.gather(*(seal(run) for _ in range(6)))
            assert all(task.done() for task in busy)
            counted = {"started": started, "finished": started, "failed": 0, "cancelled": 0}
            assert [each["calls"] for each in sealed] == [counted] * 6
            served = [stats.recorded for stats in run.gateway._ask_all("stats")]
        assert len(await run.records()) == sum(served) == started
        assert all(served), "one process served everything, so this tested nothing"


async def test_a_lost_process_is_told_by_the_others(server: ModelServer) -> None:
    """A seal that cannot ask everybody says so instead of passing for a whole one."""
    async with serving(server, n_workers=2) as run:
        os.kill(run.gateway.pids[0], signal.SIGKILL)
        while run.gateway.is_running:
            await asyncio.sleep(0.02)
        sealed = await seal(run)
        assert sealed["unknown_processes"] == 1
        with pytest.raises(GatewayError, match="-9"):
            run.gateway.resume()
        await run.gateway.start()
        assert await ask(run) == "hello"
        assert "unknown_processes" not in await seal(run)


async def test_a_process_killed_in_a_stream_records_nothing_as_ok(server: ModelServer) -> None:
    """The client gets an error, not a short answer; started again, the address is the same."""
    server.script = Answer(text="some words that take their time", pace_seconds=0.05)
    async with serving(server) as run:
        url = run.gateway.url
        seen = ""
        async with run.client() as client:
            chunks = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            with pytest.raises((openai.APIError, httpx.RemoteProtocolError, httpx.ReadError)):
                async for chunk in chunks:
                    seen += chunk.choices[0].delta.content or ""
                    if len(seen) > 5 and run.gateway.is_running:
                        os.kill(run.gateway.pids[0], signal.SIGKILL)
                        await asyncio.sleep(0.1)
        with pytest.raises(openai.APIConnectionError):
            await ask(run)
        assert await run.records() == []
        server.script = Answer()
        await run.gateway.start()
        assert run.gateway.url == url
        assert await ask(run) == "hello"
        assert (await run.record()).outcome == "ok"


PARENT = """
import asyncio, os, sys
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.process import GatewayProcesses, GatewaySpec
from agentlightning.store.client_server import LightningStoreClient

# Without a guard for the main module: the processes must not run it again.
store = LightningStoreClient("http://127.0.0.1:9")
route = ModelRoute(upstream=HttpUpstream("http://127.0.0.1:9"), model="m")
gateway = GatewayProcesses(GatewaySpec(store=store, models={"m": route}), n_workers=2)
asyncio.run(gateway.start())
print(*gateway.pids, flush=True)
if os.fork() == 0:
    sys.stdin.readline()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_no_process_outlives_its_parent() -> None:
    """A killed parent takes its gateway along, even where a fork of it holds the pipes open."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        deadline = monotonic() + 10
        while any(is_alive(pid) for pid in pids):
            assert monotonic() < deadline
            time.sleep(0.05)


async def test_what_cannot_be_sent_is_refused(server: ModelServer) -> None:
    """Stores of this process, local classes and broken ones are errors at the start."""
    memory = InMemoryLightningStore()
    models = {"m": route(server)}
    with pytest.raises(ConfigurationError, match="thread"):
        await GatewayProcesses(GatewaySpec(store=memory, models=models)).start()
    store = LightningStoreServer(memory, port=0)
    await store.start()

    class Local(Stamp):
        pass

    with pytest.raises(ConfigurationError, match="pickled"):
        await GatewayProcesses(GatewaySpec(store=store, models=models, middlewares=[Local])).start()
    spec = GatewaySpec(store=store, models=models, middlewares=[Broken])
    with pytest.raises(GatewayError, match="broken on purpose"):
        await GatewayProcesses(spec).start()
    with pytest.raises(ConfigurationError, match="num_workers=1"):
        GatewayProcesses(
            GatewaySpec(store=store, models=models, budget=CallBudget(calls=1)), n_workers=2
        )
    await store.stop()
