"""A thousand rollouts by threads, tasks and processes, while their store's server is killed and
started again three times.
"""

import asyncio
import multiprocessing
import threading
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentlightning.gateway.server import Gateway
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import EnqueueRolloutRequest
from tests.chaos.audit import (
    check_attempts,
    check_every_rollout_ended_once,
    check_spans,
    whole_journal,
)
from tests.chaos.processes import StoreProcess, gateway_to, reply
from tests.chaos.workload import CALLS, SPANS, AckLog, Worker, patient_client, read_acks, run_worker
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.chaos

ROLLOUTS = 1000
TASKS, THREADS, PROCESSES, SLOTS_PER_PROCESS = 60, 40, 2, 50
"""200 rollouts at once, in all."""
KILLS = (0.15, 0.4, 0.65)
"""The share of rollouts that have ended when the server is killed."""


def ended(folder: Path) -> int:
    return len(read_acks(folder).get("end", []))


async def kill_three_times(server: StoreProcess, folder: Path) -> None:
    for share in KILLS:
        while ended(folder) < share * ROLLOUTS:
            await asyncio.sleep(0.1)
        server.kill()
        server.start()


async def enqueue_all(address: str, log: AckLog) -> list[str]:
    """Enqueue in small batches, so that kills meet this too."""
    client = patient_client(address)
    ids: list[str] = []
    for start in range(0, ROLLOUTS, 20):
        batch = [
            EnqueueRolloutRequest(input={"marker": f"rollout-{number}"})
            for number in range(start, start + 20)
        ]
        for rollout in await client.enqueue_many_rollouts(batch):
            log.note("enqueue", rollout_id=rollout.rollout_id)
            ids.append(rollout.rollout_id)
        await asyncio.sleep(0.1)
    await client.close()
    return ids


async def run_everything(server: StoreProcess, gateway: Gateway, folder: Path) -> None:
    """Let every kind of worker run until all rollouts have ended."""
    context = multiprocessing.get_context("spawn")
    stop, stop_here = context.Event(), threading.Event()
    where = (server.address, gateway.endpoint)
    others = [
        context.Process(
            target=run_worker,
            args=(*where, folder / f"process-{n}.acks", SLOTS_PER_PROCESS, f"p{n}", stop),
        )
        for n in range(PROCESSES)
    ]
    others += [
        threading.Thread(
            target=run_worker, args=(*where, folder / f"thread-{n}.acks", 1, f"t{n}", stop_here)
        )
        for n in range(THREADS)
    ]
    log = AckLog(folder / "tasks.acks")
    worker = Worker(*where, log)
    for other in others:
        other.start()
    tasks = asyncio.create_task(worker.run(TASKS, "a", stop_here))
    killer = asyncio.create_task(kill_three_times(server, folder))
    client = patient_client(server.address)
    try:
        ids = await enqueue_all(server.address, log)
        finished = await client.wait_for_rollouts(rollout_ids=ids, timeout=150)
        assert len(finished) == ROLLOUTS, f"{ROLLOUTS - len(finished)} rollouts never ended"
        await killer
    finally:
        killer.cancel()
        stop.set()
        stop_here.set()
        await client.close()
        await tasks
        await worker.close()
        log.close()
        for other in others:
            await asyncio.to_thread(other.join, 30)
            if isinstance(other, multiprocessing.process.BaseProcess):
                other.kill()


async def audit(path: Path, folder: Path, model: ModelServer) -> None:
    """Compare what is in the file with what was acknowledged and with the model server's log."""
    acks = read_acks(folder)
    store = SQLiteLightningStore(path)
    try:
        rollouts = await store.query_rollouts()
        check_every_rollout_ended_once(rollouts, await whole_journal(store))
        assert {r.rollout_id for r in rollouts} == {a["rollout_id"] for a in acks["enqueue"]}
        assert len(rollouts) == ROLLOUTS
        spans_of, calls_of, calls = {}, {}, Counter()
        for rollout in rollouts:
            attempts = await store.query_attempts(rollout.rollout_id)
            attempt = check_attempts(attempts)
            assert len(attempts) == 1, "a claim was doubled"
            spans = await store.query_spans(rollout.rollout_id)
            texts = check_spans(rollout, attempt, spans, SPANS)
            assert len(spans) == SPANS + len(texts)
            spans_of[attempt.attempt_id] = {span.span_id for span in spans}
            calls_of[attempt.attempt_id] = texts
            calls.update(texts)
    finally:
        await store.close()
    for kind in ("claim", "end"):
        owners = Counter(ack["attempt_id"] for ack in acks[kind])
        assert owners == Counter(spans_of.keys()), kind
    for ack in acks["span"]:
        assert ack["span_id"] in spans_of[ack["attempt_id"]]
    assert len(acks["span"]) == ROLLOUTS * SPANS
    for ack in acks["call"]:
        assert ack["text"] in calls_of[ack["attempt_id"]]
    assert len(acks["call"]) == ROLLOUTS * CALLS
    said = Counter(call.request["messages"][0]["content"] for call in model.calls)
    assert calls <= said
    assert sum(calls.values()) >= ROLLOUTS * CALLS


@pytest.mark.timeout(300)
async def test_server_killed_three_times_loses_and_doubles_nothing(tmp_path):
    """Whatever the server acknowledged is there after it was killed, once, and where it belongs;
    every rollout has ended, once.
    """
    path = tmp_path / "store.db"
    server = StoreProcess(f"sqlite:///{path}", tmp_path)
    server.start()
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        model = stack.enter_context(ModelServer(reply))
        gateway = await stack.enter_async_context(gateway_to(model, server.address))
        await server.wait_ready()
        await run_everything(server, gateway, tmp_path)
    assert server.starts == 1 + len(KILLS)
    await audit(path, tmp_path, model)
