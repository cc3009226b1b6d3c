"""A thousand rollouts by runner processes that are killed at random and replaced."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import EnqueueRolloutRequest, ProxyLLM, RolloutConfig
from tests.chaos.audit import (
    check_attempts,
    check_every_rollout_ended_once,
    check_spans,
    whole_journal,
)
from tests.chaos.processes import StoreProcess, gateway_to, reply
from tests.chaos.runners import Fleet
from tests.chaos.workload import CALLS, SPANS
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.chaos

ROLLOUTS = 1000
RUNNERS, CONCURRENCY = 4, 50
KILLS = 6
CONFIG = RolloutConfig(unresponsive_seconds=4.0, max_attempts=9, retry_condition=["unresponsive"])


async def run_all(client: LightningStoreClient) -> None:
    requests = [
        EnqueueRolloutRequest(input={"marker": f"rollout-{number}"}, config=CONFIG)
        for number in range(ROLLOUTS)
    ]
    ids = [rollout.rollout_id for rollout in await client.enqueue_many_rollouts(requests)]
    fleet = Fleet(client.server_address, RUNNERS, CONCURRENCY, seed=20261121)
    try:
        for number in range(1, KILLS + 1):
            share = number / (KILLS + 2)
            while (await done(client)) < share * ROLLOUTS:
                await asyncio.sleep(0.2)
            await asyncio.to_thread(fleet.kill_one)
        finished = await client.wait_for_rollouts(rollout_ids=ids, timeout=90)
        assert len(finished) == ROLLOUTS, f"{ROLLOUTS - len(finished)} rollouts never ended"
    finally:
        await asyncio.to_thread(fleet.close)


async def done(client: LightningStoreClient) -> int:
    page = await client.query_rollouts(status_in=["succeeded"], limit=1)
    return page.total


async def audit(store: SQLiteLightningStore) -> int:
    """Check every rollout; return how many attempts were lost."""
    lost = 0
    rollouts = await store.query_rollouts()
    assert len(rollouts) == ROLLOUTS
    check_every_rollout_ended_once(rollouts, await whole_journal(store))
    for rollout in rollouts:
        attempts = await store.query_attempts(rollout.rollout_id)
        attempt = check_attempts(attempts)
        assert {other.status for other in attempts[:-1]} <= {"unresponsive"}
        spans = await store.query_spans(rollout.rollout_id)
        texts = check_spans(rollout, attempt, spans, SPANS)
        asked = {f"{rollout.input['marker']} {attempt.attempt_id} turn {n}" for n in range(CALLS)}
        assert asked <= texts
        manifest = attempt.metadata["manifest"]
        assert manifest["calls"]["finished"] == CALLS
        assert manifest["spans"] == {"sent": SPANS, "dropped": 0}
        lost += len(attempts) - 1
    return lost


@pytest.mark.timeout(180)
async def test_killed_runners_lose_and_double_nothing(tmp_path):
    """What killed runners held is done by others; every rollout has ended once, with all of the
    spans and calls of the attempt that ended it, and no others.
    """
    url = f"sqlite:///{tmp_path / 'store.db'}"
    server = StoreProcess(url, tmp_path)
    server.start()
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        model = stack.enter_context(ModelServer(reply))
        gateway = await stack.enter_async_context(gateway_to(model, server.address))
        await server.wait_ready()
        client = LightningStoreClient(server.address)
        stack.push_async_callback(client.close)
        await client.add_resources({"llm": ProxyLLM(endpoint=gateway.endpoint, model="m")})
        await run_all(client)
    store = SQLiteLightningStore(url)
    try:
        assert await audit(store) > 0, "no kill met a rollout"
    finally:
        await store.close()
