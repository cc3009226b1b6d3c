"""Stores shared by threads through `LightningStoreThreaded`."""

import asyncio
import inspect
import threading

import pytest
import pytest_asyncio

from agentlightning.store.base import LightningStore
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.types import Rollout
from tests.conformance.store_conformance import StoreConformance


class TestThreadedConformance(StoreConformance):
    @pytest_asyncio.fixture
    async def store(self):
        store = LightningStoreThreaded(InMemoryLightningStore())
        yield store
        await store.close()


class Plain(LightningStore):
    """A user's store as 0.3.0 had them: no waiting claims, and not safe to share."""

    def __init__(self):
        self.queue: list[Rollout] = []
        self.inside = 0
        self.most = 0

    async def enqueue_rollout(self, input, *args, **kwargs):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.0005)
        rollout = Rollout(rollout_id=str(input), input=input, start_time=0.0)
        self.queue.append(rollout)
        self.inside -= 1
        return rollout

    async def dequeue_rollout(self, worker_id=None):
        return self.queue.pop(0) if self.queue else None

    async def dequeue_many_rollouts(self, *, limit=1, worker_id=None):
        return [self.queue.pop(0) for _ in range(min(limit, len(self.queue)))]


def test_calls_of_an_unsafe_store_never_overlap():
    """Calls from several threads and tasks reach an unsafe store one at a time."""
    inner = Plain()
    store = LightningStoreThreaded(inner)

    async def many(name):
        await asyncio.gather(*(store.enqueue_rollout(f"{name}-{i}") for i in range(10)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(many(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert inner.most == 1
    assert len(inner.queue) == 40


async def test_waiting_claims_work_on_a_store_that_cannot_wait():
    """A waiting claim is woken by an enqueue through the wrapper and holds nobody up."""
    store = LightningStoreThreaded(Plain())
    claim = asyncio.create_task(store.dequeue_rollout(wait_seconds=30))
    many = asyncio.create_task(store.dequeue_many_rollouts(limit=2, wait_seconds=30))
    await asyncio.sleep(0.01)
    await store.enqueue_rollout("a")
    await store.enqueue_rollout("b")
    got = [await asyncio.wait_for(claim, 20), *(await asyncio.wait_for(many, 20))]
    assert sorted(r.rollout_id for r in got) == ["a", "b"]
    assert await store.dequeue_rollout(wait_seconds=0.01) is None


class SafePlain(Plain):
    """One that is safe to share, and still knows no waiting."""

    @property
    def capabilities(self):
        return {"thread_safe": True, "async_safe": True}


async def test_waiting_claims_work_on_a_safe_store_that_cannot_wait():
    """A safe store is not asked for what it does not know, and its claims are woken too."""
    store = LightningStoreThreaded(SafePlain())
    assert await store.dequeue_rollout() is None
    claim = asyncio.create_task(store.dequeue_rollout("w", wait_seconds=30))
    many = asyncio.create_task(store.dequeue_many_rollouts(limit=2, wait_seconds=30))
    await asyncio.sleep(0.01)
    await store.enqueue_rollout("a")
    await store.enqueue_rollout("b")
    got = [await asyncio.wait_for(claim, 20), *(await asyncio.wait_for(many, 20))]
    assert sorted(r.rollout_id for r in got) == ["a", "b"]


def test_capabilities_and_endpoint_come_from_inside():
    """The wrapper adds safety to what the inner store can do, and nothing else."""
    store = LightningStoreThreaded(InMemoryLightningStore())
    assert store.capabilities["thread_safe"] is True
    assert store.capabilities["async_safe"] is True
    assert store.capabilities["zero_copy"] is False
    with pytest.raises(NotImplementedError):
        store.otlp_traces_endpoint()


def test_every_coroutine_of_the_contract_is_wrapped():
    """No method of the contract falls through to the base class, and signatures are kept."""
    for name, method in inspect.getmembers(LightningStore, inspect.iscoroutinefunction):
        wrapped = getattr(LightningStoreThreaded, name)
        if name != "list_rollouts":
            assert wrapped is not method, name
        assert list(inspect.signature(wrapped).parameters) == list(
            inspect.signature(method).parameters
        )
