"""Tests of the client as an object: addresses, loops, processes, and an absent store."""

import asyncio
import gc
import multiprocessing
import pickle
import threading
import warnings
from typing import Any

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.errors import (
    ConfigurationError,
    StoreUnavailableError,
)
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer

UNREACHABLE = "http://127.0.0.1:9"


async def test_one_object_in_many_threads_and_loops(client: LightningStoreClient):
    """Threads with loops of their own share a client, and nothing is left open."""
    errors: list[BaseException] = []

    def work() -> None:
        async def calls() -> None:
            for _ in range(3):
                await client.get_rollout_by_id("ro-none")

        try:
            asyncio.run(calls())
            asyncio.run(calls())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    await client.get_rollout_by_id("ro-none")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert errors == []


def test_a_forgotten_client_leaves_no_warnings(server: LightningStoreServer):
    """Connections close with their loop even if nobody closes the client."""

    async def forget() -> None:
        await LightningStoreClient(server.endpoint).statistics()
        gc.collect()
        await asyncio.sleep(0)

    async def keep(client: LightningStoreClient) -> None:
        await client.statistics()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(forget())
        kept = LightningStoreClient(server.endpoint)
        asyncio.run(keep(kept))
        asyncio.run(keep(kept))
        del kept
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def _enqueue_elsewhere(client: LightningStoreClient, answers: Any) -> None:
    async def call() -> str:
        rollout = await client.enqueue_rollout("from another process", mode="test")
        await client.close()
        return rollout.rollout_id

    answers.put(asyncio.run(call()))


async def test_travels_into_a_spawned_process(client: LightningStoreClient):
    """A pickled client works in a process that shares nothing with this one."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_enqueue_elsewhere, args=(client, answers))
    process.start()
    rollout_id = await asyncio.to_thread(answers.get)
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    process.close()
    answers.close()
    found = await client.get_rollout_by_id(rollout_id)
    assert found is not None
    assert found.input == "from another process"
    await client.update_rollout(rollout_id, status="cancelled")


def test_pickling_keeps_the_configuration():
    """A copy has the same address, patience and token."""
    original = LightningStoreClient("http://h:1/", retry_delays=(3,), token="t", request_timeout=7)
    copy = pickle.loads(pickle.dumps(original))
    assert copy._transport.config == original._transport.config
    assert repr(copy) == "LightningStoreClient('http://h:1')"


@pytest.mark.parametrize(
    "arguments",
    [{"server_address": "http://h:1"}, {"endpoint": "http://h:1/"}, {"base_url": "http://h:1/v1/agl"}],
)  # fmt: skip
def test_spellings_of_the_address(arguments: dict[str, str]):
    """The address may be given under each of its names, with or without the API's path."""
    client = LightningStoreClient(**arguments)
    assert client.server_address == "http://h:1/v1/agl"
    assert client.otlp_traces_endpoint() == "http://h:1/v1/traces"
    assert all(client.capabilities.values())


@pytest.mark.parametrize("address", [None, "", "localhost:4747", "ftp://h", "http://"])
def test_impossible_addresses(address: str | None):
    """What is no HTTP address is refused at construction."""
    with pytest.raises(ConfigurationError):
        LightningStoreClient(address)


async def test_an_absent_store_is_unavailable():
    """Calls to a store that is not there raise an error that says so; a claim finds no work."""
    client = LightningStoreClient(UNREACHABLE, retry_delays=(0.01,), health_retry_delays=())
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await client.statistics()
    with pytest.raises(ConnectionError):
        async for _ in client.subscribe():
            pass
    assert not await client.is_healthy()
    assert await client.dequeue_rollout("w") is None
    began = monotonic()
    assert await client.dequeue_rollout("w", wait_seconds=0.2) is None
    assert monotonic() - began >= 0.2
    await client.close()
