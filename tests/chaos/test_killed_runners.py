"""A thousand rollouts by runner processes that are killed at random and replaced, or frozen until
others have their work.
"""

import asyncio
from collections import Counter, defaultdict
from contextlib import AsyncExitStack

import pytest

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import (
    AttemptedRollout,
    EnqueueRolloutRequest,
    ProxyLLM,
    Rollout,
    RolloutConfig,
    StoreEvent,
)
from tests.chaos.audit import (
    ATTEMPT_ENDS,
    check_attempts,
    check_every_rollout_ended_once,
    check_late,
    check_spans,
    whole_journal,
)
from tests.chaos.processes import StoreProcess, gateway_to, reply
from tests.chaos.runners import AGENTS, LEASE_SECONDS, Fleet
from tests.chaos.workload import CALLS, SPANS
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.chaos

ROLLOUTS = 1000
RUNNERS, CONCURRENCY = 4, 50
KILLS = (100, 300, 400, 600, 700, 800)
FREEZES = (150, 200)
"""How many rollouts have ended when it happens."""
CONFIG = RolloutConfig(max_attempts=5)
"""Failures are not tried again, lost workers are: a busy machine may lose more than are killed."""


async def run_all(client: LightningStoreClient) -> None:
    requests = [
        EnqueueRolloutRequest(input={"marker": f"rollout-{number}"}, config=CONFIG)
        for number in range(ROLLOUTS)
    ]
    ids = [rollout.rollout_id for rollout in await client.enqueue_many_rollouts(requests)]
    fleet = Fleet(client.server_address, RUNNERS, CONCURRENCY, seed=20261121)
    try:
        async with asyncio.TaskGroup() as storm:
            ended = 0
            async for event in client.subscribe(kinds=["rollout_updated"], since=0):
                if event.status != "succeeded":
                    continue
                ended += 1
                if ended in KILLS:
                    await asyncio.to_thread(fleet.kill_one)
                if ended in FREEZES:
                    kind = FREEZES.index(ended) % len(AGENTS)
                    storm.create_task(freeze_until_lost(client, fleet, kind))
                if ended == max(*KILLS, *FREEZES):
                    break
        finished = await client.wait_for_rollouts(rollout_ids=ids, timeout=150)
        assert len(finished) == ROLLOUTS, f"{ROLLOUTS - len(finished)} rollouts never ended"
        assert {rollout.status for rollout in finished} == {"succeeded"}
    finally:
        await asyncio.to_thread(fleet.close)


async def freeze_until_lost(client: LightningStoreClient, fleet: Fleet, kind: int) -> None:
    """Freeze the busiest runner of a kind until it has lost all that it held, so that what it
    writes then is late.
    """
    busy = await held_by(client)
    number = max(fleet.numbers(kind), key=lambda number: len(busy[f"Worker-{number}"]))
    name = f"Worker-{number}"
    fleet.freeze(number)
    since = await client.last_event_seq()
    held = (await held_by(client))[name]
    try:
        async with asyncio.timeout(60):
            kinds = ["attempt_started", "attempt_updated"]
            async for event in client.subscribe(kinds=kinds, since=since):
                if event.worker_id == name:
                    # A claim that was under way is answered without anybody to hear it.
                    (held.discard if event.status in ATTEMPT_ENDS else held.add)(event.attempt_id)
                if not held:
                    break
    except TimeoutError:
        raise AssertionError(f"{name} still holds {held}") from None
    fleet.thaw(number)


async def held_by(client: LightningStoreClient) -> dict[str, set[str | None]]:
    """Return the attempts that are under way, by worker."""
    held: dict[str, set[str | None]] = defaultdict(set)
    for rollout in await client.query_rollouts(status_in=["preparing", "running"]):
        assert isinstance(rollout, AttemptedRollout)
        held[str(rollout.attempt.worker_id)].add(rollout.attempt.attempt_id)
    return held


async def audit(store: SQLiteLightningStore) -> Counter[str]:
    """Check every rollout; count what became of those that lost their runner."""
    rollouts = await store.query_rollouts()
    assert len(rollouts) == ROLLOUTS
    events = await whole_journal(store)
    check_every_rollout_ended_once(rollouts, events)
    told: dict[str | None, list[StoreEvent]] = {}
    for event in events:
        told.setdefault(event.rollout_id, []).append(event)
    found: Counter[str] = Counter()
    for rollout in rollouts:
        found.update(await audit_one(store, rollout, told[rollout.rollout_id]))
    return found


async def audit_one(
    store: SQLiteLightningStore, rollout: Rollout, events: list[StoreEvent]
) -> Counter[str]:
    attempts = await store.query_attempts(rollout.rollout_id)
    attempt = check_attempts(attempts)
    before = attempts[:-1]
    assert {other.status for other in before} <= {"unresponsive"}, before
    assert {other.lease_seconds for other in attempts} == {LEASE_SECONDS}
    spans = await store.query_spans(rollout.rollout_id)
    texts = check_spans(rollout, attempt, spans, SPANS)
    assert {
        f"{rollout.input['marker']} {attempt.attempt_id} turn {n}" for n in range(CALLS)
    } <= texts
    manifest = attempt.metadata["manifest"]
    assert manifest["calls"]["finished"] == CALLS
    assert manifest["spans"] == {"sent": SPANS, "dropped": 0}
    late = check_late(attempts, spans, events)
    statuses = ["late_status" in (other.metadata or {}) for other in attempts]
    return Counter(lost=len(before), late_spans=late, late_statuses=sum(statuses))


@pytest.mark.timeout(300)
async def test_killed_and_frozen_runners_lose_and_double_nothing(tmp_path):
    """What lost runners held is done by others when its lease has run out; every rollout has ended
    once, with all of the spans and calls of the attempt that ended it, and no others. What a
    runner writes when it wakes up is kept as late.
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
        found = await audit(store)
    finally:
        await store.close()
    assert min(found["lost"], found["late_spans"], found["late_statuses"]) > 0, found
