"""Tests of the server as a store: who may be served how, and where calls go."""

import asyncio
import multiprocessing
import os
import pickle
import sys
from typing import Any

import httpx
import pytest

from agentlightning.errors import ConfigurationError, InvalidRequestError
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Worker
from agentlightning.utils.server_launcher import PythonServerLauncherArgs


class BareStore(LightningStore):
    """A store of a user that can do one thing, and says what it is told to of itself."""

    def __init__(self, **abilities: bool) -> None:
        self.abilities = abilities

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(**self.abilities)  # type: ignore[typeddict-item]

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        return Worker(worker_id=f"{worker_id} from {os.getpid()}")


async def test_calls_in_process_go_straight_to_the_store(server: LightningStoreServer):
    """The owner's calls reach the store object without HTTP, and what it stores is served."""
    assert server.target is server.store
    rollout = await server.enqueue_rollout({"a": 1})
    assert await server.query_rollouts(rollout_id_in=[rollout.rollout_id])
    answer = httpx.get(f"{server.endpoint}/v1/agl/rollouts/{rollout.rollout_id}")
    assert answer.json()["input"] == {"a": 1}
    assert all(server.capabilities.values())
    assert server.otlp_traces_endpoint() == server.endpoint + "/v1/traces"
    await server.update_rollout(rollout.rollout_id, status="cancelled")


async def test_tasks_must_be_json(server: LightningStoreServer):
    """A task that no worker could receive is refused where it is enqueued."""
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        await server.enqueue_rollout(object())


async def test_a_copy_calls_the_server(server: LightningStoreServer):
    """A pickled server is a client of the original, and cannot start or stop it."""
    copy = pickle.loads(pickle.dumps(server))
    assert isinstance(copy.target, LightningStoreClient)
    assert copy.endpoint == server.endpoint
    assert copy.app is None
    assert (await copy.statistics())["name"] == "InMemoryLightningStore"
    subscription = copy.subscribe(since=0)
    assert (await anext(subscription)).seq > 0
    await subscription.aclose()
    with pytest.raises(ConfigurationError, match="copy"):
        await copy.stop()
    await copy.close()
    assert server.is_running()


def _work_elsewhere(store: LightningStoreServer, answers: Any) -> None:
    async def call() -> str:
        rollout = await store.enqueue_rollout("elsewhere")
        await store.close()
        return rollout.rollout_id

    answers.put(asyncio.run(call()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
async def test_other_processes_reach_the_same_store(server: LightningStoreServer, method: str):
    """A server object handed to another process works there through HTTP."""
    if sys.version_info >= (3, 12) and method == "fork":
        pytest.skip("forking a process with threads warns from Python 3.12 on")
    context: Any = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=_work_elsewhere, args=(server, answers))
    process.start()
    rollout_id = await asyncio.to_thread(answers.get)
    await asyncio.to_thread(process.join)
    process.close()
    answers.close()
    found = await server.get_rollout_by_id(rollout_id)
    assert found is not None
    await server.update_rollout(rollout_id, status="cancelled")


async def test_serving_from_a_task():
    """In asyncio mode the server shares the loop of its owner."""
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0, launch_mode="asyncio")
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        rollout = await client.enqueue_rollout("x")
        assert await store.get_rollout_by_id(rollout.rollout_id) == rollout
        with pytest.raises(RuntimeError, match="already running"):
            await server.start()
    finally:
        await client.close()
        await server.close()
        await store.close()
    assert not server.is_running()


async def test_serving_from_processes():
    """A store that is shared through something else can be served from another process."""
    store = BareStore(zero_copy=True, async_safe=True, thread_safe=True)
    server = LightningStoreServer(store, port=0, launch_mode="mp")
    await server.start()
    try:
        answer = httpx.get(f"{server.endpoint}/v1/agl/workers/w")
        served_by = answer.json()["worker_id"].removeprefix("w from ")
        assert int(served_by) != os.getpid()
        own = await server.get_worker_by_id("w")
        assert own is not None
        assert own.worker_id == f"w from {os.getpid()}"
    finally:
        await server.stop()


async def test_a_store_of_a_user_without_locks_is_wrapped():
    """A store that is not thread-safe can be served from a thread."""
    server = LightningStoreServer(BareStore(async_safe=True), port=0)
    await server.start()
    try:
        url = f"{server.endpoint}/v1/agl"
        assert httpx.get(f"{url}/workers/w").json()["worker_id"].startswith("w from")
        missing = httpx.get(f"{url}/rollouts/ro-1")
        assert (missing.status_code, missing.json()["code"]) == (501, "not_implemented")
    finally:
        await server.stop()


async def test_a_store_that_cannot_wait_is_asked_again(claim: AttemptedRollout):
    """A store of 0.3.0, whose dequeue takes no waiting time, still serves waiting claims."""

    class Old(BareStore):
        asked = 0

        async def dequeue_many_rollouts(self, *, limit: int = 1, worker_id: str | None = None):
            self.asked += 1
            return [claim] if self.asked == 3 else []

    server = LightningStoreServer(Old(thread_safe=True, async_safe=True), port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        assert await client.dequeue_rollout(wait_seconds=20) == claim
        assert await client.dequeue_rollout(wait_seconds=0.15) is None
    finally:
        await client.close()
        await server.stop()


def test_impossible_stores():
    """A store that cannot be shared as asked is refused, with the way out."""
    with pytest.raises(ValueError, match="lives in one process"):
        LightningStoreServer(InMemoryLightningStore(), port=0, launch_mode="mp")
    with pytest.raises(ValueError, match="LightningStoreThreaded"):
        LightningStoreServer(BareStore(), port=0, launch_mode="asyncio")


def test_contradicting_arguments():
    """Launcher arguments exclude what they contain."""
    store = InMemoryLightningStore(thread_safe=True)
    args = PythonServerLauncherArgs(port=0, launch_mode="thread")
    assert LightningStoreServer(store, launcher_args=args).endpoint
    for wrong in ({"host": "127.0.0.1"}, {"port": 1}, {"launch_mode": "asyncio"}):
        with pytest.raises(ValueError, match="launcher_args"):
            LightningStoreServer(store, launcher_args=args, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_workers"):
        LightningStoreServer(store, port=0, n_workers=2)


def test_the_default_port_is_announced(caplog: pytest.LogCaptureFixture):
    """Without a port it is 4747, with a warning."""
    server = LightningStoreServer(InMemoryLightningStore(thread_safe=True))
    assert "using the default" in caplog.text
    assert server._launcher.args.port == 4747


def test_a_public_address_needs_a_token():
    """Other machines are let in with a token, or when somebody says so."""
    store = InMemoryLightningStore(thread_safe=True)
    for host in ("0.0.0.0", "::", "192.168.1.5", "store.example"):
        with pytest.raises(ConfigurationError, match="give a token"):
            LightningStoreServer(store, host, 0)
        LightningStoreServer(store, host, 0, token="secret")
        LightningStoreServer(store, host, 0, allow_unauthenticated=True)
    for host in ("localhost", "127.0.0.1", "::1", None):
        LightningStoreServer(store, host, 0)
    with pytest.raises(ConfigurationError, match="give a token"):
        LightningStoreServer(store, launcher_args=PythonServerLauncherArgs(host="0.0.0.0"))


async def test_stopping_ends_waits_and_streams():
    """A server with waiting clients stops at once, and their answers are not errors."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0)
    await server.start()
    claim = await store.start_rollout(1)
    async with httpx.AsyncClient(base_url=server.endpoint + "/v1/agl", timeout=30) as http:
        wait = {"rollout_ids": [claim.rollout_id], "timeout": 25}
        answers = [
            asyncio.create_task(http.post("/queues/rollouts/dequeue", json={"wait_seconds": 25})),
            asyncio.create_task(http.post("/waits/rollouts", json=wait)),
            asyncio.create_task(http.get("/events")),
        ]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(10):
            await server.stop()
            claimed, waited, events = await asyncio.gather(*answers)
    assert (claimed.json(), waited.json()) == ([], [])
    assert waited.headers["x-agl-wait-complete"] == "false"
    assert events.text.startswith(": ready")
    await store.close()
