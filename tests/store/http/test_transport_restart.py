"""Tests of a server that is killed while clients write: nothing is lost, nothing happens twice."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentlightning.errors import StoreUnavailableError
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import EnqueueRolloutRequest
from tests.store.http.conftest import make_span
from tests.support.ports import free_port

SERVER = """
import asyncio, sys
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.url import open_store

async def main():
    server = LightningStoreServer(open_store(sys.argv[1]), port=int(sys.argv[2]))
    await server.start()
    print("ready", flush=True)
    await server.run_forever()

asyncio.run(main())
"""


class Killable:
    """A store server in a process of its own, on one port and one file for all of its lives."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, self.url, str(self.port)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@asynccontextmanager
async def killable(folder: Path) -> AsyncIterator[tuple[Killable, LightningStoreClient]]:
    server = Killable(folder)
    await asyncio.to_thread(server.start)
    client = LightningStoreClient(server.address, health_retry_delays=(0.05,))
    try:
        yield server, client
    finally:
        await client.close()
        server.kill()


async def test_writes_in_flight_survive_kills(tmp_path: Path):
    """Clients that write while the server is killed twice get every answer, each write once."""
    tasks, kills = 24, 2
    async with killable(tmp_path) as (server, client):
        progress = 0
        ended = asyncio.Event()

        async def work(number: int) -> tuple[str, str]:
            nonlocal progress
            # Ids made by the store, and writes that are not idempotent by themselves.
            started = await client.start_rollout({"n": number})
            await client.add_span(make_span(started))
            again = await client.start_attempt(started.rollout_id)
            await client.add_many_spans([make_span(again) for _ in range(3)])
            number_a = await client.get_next_span_sequence_id(started.rollout_id, "x")
            assert number_a == 5
            await client.update_resources("shared", {})
            await client.enqueue_many_rollouts([EnqueueRolloutRequest(input=number)])
            claim = await client.dequeue_rollout("w", wait_seconds=30)
            assert claim is not None
            await client.finish_rollout(claim.rollout_id, claim.attempt.attempt_id, reward=1.0)
            await client.finish_rollout(started.rollout_id, reward=0.5)
            progress += 1
            return started.rollout_id, claim.rollout_id

        async def destroy() -> None:
            for kill in range(kills):
                while progress < tasks * (kill + 1) // (kills + 2):
                    await asyncio.sleep(0.01)
                server.kill()
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.start)
            ended.set()

        async with asyncio.timeout(60):
            done, _ = await asyncio.gather(
                asyncio.gather(*(work(number) for number in range(tasks))), destroy()
            )
        assert ended.is_set()
        rollouts = await client.query_rollouts()
        assert len(rollouts) == 2 * tasks
        assert {r.status for r in rollouts} == {"succeeded"}
        assert len({claimed for _, claimed in done}) == tasks
        assert sorted(r.input for r in rollouts if isinstance(r.input, int)) == [*range(tasks)]
        for started, claimed in done:
            spans = await client.query_spans(started)
            assert [span.sequence_id for span in spans] == [1, 2, 3, 4, 6]
            assert len(await client.query_attempts(started)) == 2
            # The reward, and nothing twice.
            assert len(await client.query_spans(claimed)) == 1
            assert len(await client.query_attempts(claimed)) == 1
        latest = await client.get_latest_resources()
        assert latest is not None
        assert latest.version == tasks


async def test_a_closed_port_is_waited_for(tmp_path: Path):
    """A call waits for a server that was there, for longer than its repeats would take."""
    async with killable(tmp_path) as (server, client):
        hasty = LightningStoreClient(
            server.address, retry_delays=(0.01,), health_retry_delays=(0.05,), outage_seconds=0.3
        )
        patient = LightningStoreClient(
            server.address, retry_delays=(0.01,), health_retry_delays=(0.05,)
        )
        for each in (hasty, patient):
            await each.statistics()
        server.kill()
        waiting = asyncio.create_task(patient.enqueue_rollout("patience"))
        with pytest.raises(StoreUnavailableError):
            await hasty.enqueue_rollout("haste")
        stranger = LightningStoreClient(
            server.address, retry_delays=(0.01,), health_retry_delays=(0.05,)
        )
        with pytest.raises(StoreUnavailableError):
            await stranger.enqueue_rollout("wrong address")
        assert not waiting.done()
        await asyncio.to_thread(server.start)
        assert (await asyncio.wait_for(waiting, 20)).input == "patience"
        assert [r.input for r in await client.query_rollouts()] == ["patience"]
        for each in (hasty, patient, stranger):
            await each.close()
