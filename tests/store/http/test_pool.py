"""Tests of one client in many threads, loops and processes."""

import asyncio
import multiprocessing
import sys
import threading
from typing import Any

import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer


def _in_child(client: LightningStoreClient, answers: Any) -> None:
    async def call() -> list[str]:
        found = await asyncio.gather(*(client.enqueue_rollout(f"child {i}") for i in range(20)))
        await client.close()
        return [rollout.rollout_id for rollout in found]

    answers.put(asyncio.run(call()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
async def test_a_used_client_works_in_a_child(server: LightningStoreServer, method: str):
    """A client with open connections is handed to a child, and both go on without mixing."""
    if sys.version_info >= (3, 12) and method == "fork":
        pytest.skip("forking a process with threads warns from Python 3.12 on")
    client = LightningStoreClient(server.endpoint)
    await asyncio.gather(*(client.statistics() for _ in range(5)))
    context: Any = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=_in_child, args=(client, answers))
    process.start()
    own = [await client.enqueue_rollout(f"parent {i}") for i in range(50)]
    theirs = await asyncio.to_thread(answers.get)
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    process.close()
    answers.close()
    ids = [rollout.rollout_id for rollout in own] + theirs
    found = {r.rollout_id: r.input for r in await client.query_rollouts(rollout_id_in=ids)}
    assert [found[r.rollout_id] for r in own] == [f"parent {i}" for i in range(50)]
    assert {found[i] for i in theirs} == {f"child {i}" for i in range(20)}
    for rollout_id in ids:
        await server.update_rollout(rollout_id, status="cancelled")
    await client.close()


async def test_threads_with_loops_of_their_own(server: LightningStoreServer):
    """One client serves several loops at once; a loop that ends without `close` leaves nothing."""
    client = LightningStoreClient(server.endpoint)
    inputs: list[Any] = []

    def call(number: int) -> None:
        async def run() -> None:
            rollout = await client.start_rollout(number)
            assert rollout.input == number
            inputs.append(rollout.input)

        for _ in range(3):
            asyncio.run(run())

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    await client.statistics()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(inputs) == sorted([0, 1, 2, 3] * 3)
    await client.close()
    assert (await client.statistics())["name"]
    await client.close()
