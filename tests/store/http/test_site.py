"""Tests of what requests share: answers kept for repeats, and claims that go back."""

import asyncio
from typing import Any

import pytest

from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.http import client_data
from agentlightning.store.http.exchange import Reply
from agentlightning.store.http.site import ReplayLedger, Site
from agentlightning.store.idempotency import idempotency_key
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.types import Rollout
from tests.store.http.conftest import make_span


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


async def test_only_what_the_lost_claimant_still_has_goes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Of a lost claimant's rollouts, those that were ended or went to somebody else meanwhile are
    left alone, and the others are queued again all the same."""
    monkeypatch.setattr("agentlightning.store.http.site.CLAIM_GRACE_SECONDS", 0.05)
    store = InMemoryLightningStore(thread_safe=True)
    for task in range(3):
        await store.enqueue_rollout(task)
    claims = await store.dequeue_many_rollouts(limit=3, worker_id="w-left")
    ended, moved, left = [claim.rollout_id for claim in claims]
    site = Site(store)
    site.give_back(claims, "key")
    # As the supervisor of a dead worker does, which is quicker than the grace.
    await store.update_rollout(ended, status="cancelled")
    await store.update_rollout(moved, status="requeuing")
    again = await store.dequeue_rollout("w-new")
    assert again is not None
    assert again.rollout_id == moved
    assert (await asyncio.wait_for(store.dequeue_rollout(wait_seconds=20), 20)).rollout_id == left
    await site.drain()
    now = {item.rollout_id: item for item in await store.query_rollouts()}
    assert [now[each].status for each in (ended, moved)] == ["cancelled", "preparing"]
    assert now[moved].attempt.attempt_id == again.attempt.attempt_id
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
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
    with ledger.watching("a") as repeated:
        assert repeated.is_set()
    with pytest.raises(KeyError):
        await ledger.once("b", broken)
    assert (await ledger.once("b", slow)).body == b"2"
    await ledger.once("c", slow)
    assert (await ledger.once("a", slow)).body == b"4"


async def test_no_crowd_makes_the_ledger_run_a_request_twice_at_once():
    """A repeat shares the answer of a request that runs, however many have come since."""
    ledger, leave = ReplayLedger(capacity=2), asyncio.Event()

    async def waits() -> Reply:
        await leave.wait()
        return Reply(b"first")

    async def answers() -> Reply:
        return Reply(b"other")

    first = asyncio.create_task(ledger.once("a", waits))
    await asyncio.sleep(0)
    for number in range(10):
        await ledger.once(f"other-{number}", answers)
    repeat = asyncio.create_task(ledger.once("a", answers))
    await asyncio.sleep(0)
    leave.set()
    assert await first is await repeat


async def test_a_claim_that_was_asked_for_again_stays_in_a_crowd(monkeypatch: pytest.MonkeyPatch):
    """Who repeats a claim within the grace keeps it, however many others asked meanwhile."""
    monkeypatch.setattr("agentlightning.store.http.site.CLAIM_GRACE_SECONDS", 0.2)
    store = InMemoryLightningStore(thread_safe=True)
    await store.enqueue_rollout("work")
    claims = await store.dequeue_many_rollouts(worker_id="w")
    site = Site(store)
    site.ledger = ReplayLedger(capacity=2)

    async def answers() -> Reply:
        return Reply(b"claims")

    await site.ledger.once("claim", answers, keep=False)
    site.give_back(claims, "claim")
    await asyncio.sleep(0)
    for number in range(10):
        await site.ledger.once(f"other-{number}", answers)
    await site.ledger.once("claim", answers, keep=False)
    for number in range(10, 20):
        await site.ledger.once(f"other-{number}", answers)
    await asyncio.sleep(0.4)
    await site.drain()
    (rollout,) = await store.query_rollouts()
    assert rollout.status == "preparing"
    await store.close()


async def test_the_ledger_keeps_no_answer_that_may_become_stale():
    """What is not to be kept, is too long, or is nothing is produced anew, and its repeat noted."""
    ledger = ReplayLedger(max_bytes=10)
    bodies = [b"one", b"[]", b"long " * 10]
    for body, keep in ((bodies[0], False), (bodies[1], True), (bodies[2], True)):
        answers: list[Reply] = []

        async def produce(body: bytes = body, answers: list[Reply] = answers) -> Reply:
            await asyncio.sleep(0.01)
            answers.append(Reply(body))
            return answers[-1]

        key = body.decode()
        first, joined = await asyncio.gather(
            *(ledger.once(key, produce, keep=keep) for _ in range(2))
        )
        assert first is joined
        ledger.forget(key)
        await ledger.once(key, produce, keep=keep)
        with ledger.watching(key) as repeated:
            assert not repeated.is_set()
            await ledger.once(key, produce, keep=keep)
            assert repeated.is_set()
        assert len(answers) == 3


def test_stores_that_keep_replies():
    """Our stores do; collections without replies, and stores of users, do not."""

    class Plain(LightningStore):
        """A store of a user."""

    assert Site(InMemoryLightningStore()).keeps_replies()
    assert Site(LightningStoreThreaded(InMemoryLightningStore())).keeps_replies()
    assert not Site(LightningStoreThreaded(Plain())).keeps_replies()
    assert not Site(Plain()).keeps_replies()


class Queue(LightningStore):
    """A store of a user as 0.3.0 had them: its claims cannot wait."""

    def __init__(self) -> None:
        self.asked = 0
        self.inner = InMemoryLightningStore()

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {"thread_safe": True, "async_safe": True}

    async def enqueue_many_rollouts(self, rollouts: Any) -> Any:
        return await self.inner.enqueue_many_rollouts(rollouts)

    async def update_rollout(self, rollout_id: str, *args: Any, **kwargs: Any) -> Rollout:
        return await self.inner.update_rollout(rollout_id, *args, **kwargs)

    async def dequeue_many_rollouts(self, *, limit: int = 1, worker_id: str | None = None) -> Any:
        self.asked += 1
        return await self.inner.dequeue_many_rollouts(limit=limit, worker_id=worker_id)


async def test_what_passes_the_server_wakes_claims_that_a_store_cannot_hold(
    monkeypatch: pytest.MonkeyPatch,
):
    """Such a store is asked again when work may have come, not all the time."""
    monkeypatch.setattr("agentlightning.store.http.client_work.WAIT_SLICE_SECONDS", 3600)
    monkeypatch.setattr("agentlightning.store.http.site.FOREIGN_POLL_SECONDS", 3600)
    monkeypatch.setattr("agentlightning.store.http.routes_queue.DEQUEUE_SLICE_SECONDS", 3600)
    store = Queue()
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)

    async def waiting() -> asyncio.Task[Any]:
        asked = store.asked
        claim = asyncio.create_task(client.dequeue_rollout("w", wait_seconds=30))
        while store.asked == asked:
            await asyncio.sleep(0.005)
        return claim

    try:
        claim = await waiting()
        rollout = await client.enqueue_rollout("work")
        assert (await asyncio.wait_for(claim, 10)).rollout_id == rollout.rollout_id
        claim = await waiting()
        await client.update_rollout(rollout.rollout_id, status="requeuing")
        assert (await asyncio.wait_for(claim, 10)).attempt.sequence_id == 2
        assert store.asked == 4
        claim = await waiting()
        # A claim that waits does not keep the server from its end.
        await asyncio.wait_for(server.stop(), 10)
        claim.cancel()
        await asyncio.wait({claim})
    finally:
        await client.close()
        await server.stop()
        await store.inner.close()


async def test_a_caller_names_one_request(server: LightningStoreServer):
    """A caller's key makes a repeated call one call; the parts of a call are not each other's."""
    client = LightningStoreClient(server.endpoint)
    with idempotency_key("named-1"):
        first = await client.start_rollout("named")
        assert (await client.start_rollout("named")).rollout_id == first.rollout_id
    spans = [make_span(first, span_id=f"{number:016x}") for number in range(8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_data, "MAX_BULK_BYTES", 1500)
        with idempotency_key("named-2"):
            stored = await client.add_many_spans(spans)
            assert [span.span_id for span in stored] == [span.span_id for span in spans]
            assert await client.add_many_spans(spans) == stored
    assert len(await client.query_spans(first.rollout_id)) == 8
    await client.close()
