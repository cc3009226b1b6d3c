"""Tests of what requests share: answers kept for repeats, and claims that go back."""

import asyncio

import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.http.exchange import Reply
from agentlightning.store.http.site import ReplayLedger
from agentlightning.store.memory import InMemoryLightningStore


async def test_work_of_a_lost_claimant_goes_back(monkeypatch: pytest.MonkeyPatch):
    """A rollout that is claimed for a client that has left is queued again."""
    monkeypatch.setattr("agentlightning.store.http.site.CLAIM_GRACE_SECONDS", 0.05)
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint, retry_delays=())
    try:
        leaving = asyncio.create_task(client.dequeue_rollout("w-leaves", wait_seconds=20))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.sleep(0.02)
        # Within the second that the server takes to notice, its claim still waits for work.
        rollout = await store.enqueue_rollout("work")
        claim = await asyncio.wait_for(client.dequeue_rollout("w-stays", wait_seconds=20), 20)
        assert claim is not None
        assert claim.rollout_id == rollout.rollout_id
        assert claim.attempt.worker_id == "w-stays"
    finally:
        await client.close()
        await server.stop()
        await store.close()


async def test_the_ledger_answers_repeats_and_forgets_failures():
    """A repeat shares the first answer, also while that is being made; a failure is no answer."""
    ledger = ReplayLedger(capacity=2)
    calls = 0

    async def slow() -> Reply:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return Reply(b"%d" % calls)

    async def broken() -> Reply:
        raise KeyError("no")

    first, second = await asyncio.gather(ledger.once("a", slow), ledger.once("a", slow))
    assert first is second
    assert ledger.was_repeated("a")
    with pytest.raises(KeyError):
        await ledger.once("b", broken)
    assert (await ledger.once("b", slow)).body == b"2"
    await ledger.once("c", slow)
    assert (await ledger.once("a", slow)).body == b"4"
    small = ReplayLedger(max_bytes=0)
    await small.once("x", slow)
    assert (await small.once("x", slow)).body == b"6"
