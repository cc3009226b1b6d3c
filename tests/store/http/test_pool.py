"""Tests of one client in many threads, loops and processes."""

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.http import pool


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


FORKS_AND_GOES_ON = """
import asyncio, os, sys, threading
from agentlightning.store.client_server import LightningStoreClient

client = LightningStoreClient(sys.argv[1], request_timeout=5, retry_delays=())
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

async def some():
    await asyncio.gather(*(client.statistics() for _ in range(3)))

def run(work):
    asyncio.run_coroutine_threadsafe(work, loop).result(20)

run(some())
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
run(some())
run(client.close())
"""


async def test_a_forked_child_that_ends_leaves_the_connections_alone(server: LightningStoreServer):
    """A child that drops what it inherited, and ends, does not make its parent deaf."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS_AND_GOES_ON]
    ended = await asyncio.to_thread(
        subprocess.run, [*command, server.endpoint], capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


async def test_a_client_that_is_collected_in_a_cycle_is_closed(server: LightningStoreServer):
    """Sessions of a client that the garbage collector takes are closed, and nobody complains."""
    client: Any = LightningStoreClient(server.endpoint)
    await client.statistics()
    client.itself = client
    before = len(pool._open)
    del client
    gc.collect()
    async with asyncio.timeout(5):
        while len(pool._open) >= before:
            await asyncio.sleep(0.01)


def test_loops_that_end_without_a_word(server: LightningStoreServer):
    """Sessions of loops that were just closed are dropped by the next loop's first call."""
    client = LightningStoreClient(server.endpoint)
    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        loop.run_until_complete(client.statistics())
        with warnings.catch_warnings():
            # Python itself complains about the socket that nobody can close any more.
            warnings.simplefilter("ignore", ResourceWarning)
            loop.close()
            gc.collect()
    mine = [one for one in pool._open if one.loop in loops]
    assert [one.loop for one in mine] == loops[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(client.close())
        asyncio.run(client.statistics())
        del mine, loop
        loops.clear()
        gc.collect()
    assert not [one for one in pool._open if one.loop.is_closed()]
