"""The export thread starts by itself, stops when told, and survives forks."""

import asyncio
import os
import threading

import pytest

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.delivery import Delivery
from agentlightning.tracer.exporter import ExportOptions, StoreExporter
from agentlightning.types import Span
from tests.support.threads import new_threads


class Holding(InMemoryLightningStore):
    """A store whose calls hang until they are cancelled."""

    async def add_many_spans(self, spans):
        await asyncio.sleep(3600)
        return spans


def span(rollout_id, attempt_id):
    return Span.from_attributes(attributes={}, rollout_id=rollout_id, attempt_id=attempt_id)


async def rollout_of(store):
    rollout = await store.start_rollout(input={})
    return rollout.rollout_id, rollout.attempt.attempt_id


def test_reuse_after_shutdown():
    """A span after the shutdown starts the thread again and arrives."""
    store = InMemoryLightningStore(thread_safe=True)
    ids = asyncio.run(rollout_of(store))
    exporter = StoreExporter()
    delivery = Delivery(*ids)
    lane = exporter.lane(store)
    for expected in (1, 2):
        with new_threads() as started:
            lane.put(delivery, span(*ids))
            assert exporter.flush([delivery], timeout=30)
            assert delivery.sent == expected
            assert started("agl-span-export")
            exporter.shutdown()
            exporter.shutdown()
            assert not started("agl-span-export")
    asyncio.run(store.close())


def test_shutdown_sends_what_is_queued():
    """Nobody needs to flush before the shutdown."""
    store = InMemoryLightningStore(thread_safe=True)
    ids = asyncio.run(rollout_of(store))
    exporter = StoreExporter(ExportOptions(linger_seconds=60))
    delivery = Delivery(*ids)
    lane = exporter.lane(store)
    for _ in range(10):
        lane.put(delivery, span(*ids))
    exporter.shutdown(timeout=30)
    assert (delivery.sent, delivery.dropped) == (10, 0)
    assert len(asyncio.run(store.query_spans(ids[0]))) == 10
    asyncio.run(store.close())


def test_shutdown_with_a_hanging_store_drops_and_counts():
    """What cannot be sent in time, in flight or queued, is counted as dropped."""
    store = Holding(thread_safe=True)
    ids = asyncio.run(rollout_of(store))
    exporter = StoreExporter(ExportOptions(batch_size=4, linger_seconds=0))
    delivery = Delivery(*ids)
    lane = exporter.lane(store)
    with new_threads() as started:
        for _ in range(10):
            lane.put(delivery, span(*ids))
        assert not exporter.flush([delivery], timeout=0.05)
        exporter.shutdown(timeout=0.05)
        assert (delivery.sent, delivery.dropped, delivery.pending) == (0, 10, 0)
        assert not started("agl-span-export")
    asyncio.run(store.close())


def test_lanes_of_closed_loops_are_forgotten():
    """A tracer used in one short-lived event loop after another keeps no lane of the old ones."""
    store = InMemoryLightningStore()
    exporter = StoreExporter()

    async def use():
        ids = await rollout_of(store)
        delivery = Delivery(*ids)
        exporter.lane(store, asyncio.get_running_loop()).put(delivery, span(*ids))
        await asyncio.to_thread(exporter.flush, [delivery], 30)
        assert delivery.sent == 1

    for _ in range(5):
        asyncio.run(use())
        assert len(exporter._lanes) <= 2
    exporter.shutdown()
    asyncio.run(store.close())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_starts_afresh():
    """A child of a process that exports can export too, with a thread of its own."""
    store = InMemoryLightningStore(thread_safe=True)
    ids = asyncio.run(rollout_of(store))
    exporter = StoreExporter()
    delivery = Delivery(*ids)
    exporter.lane(store).put(delivery, span(*ids))
    assert exporter.flush([delivery], timeout=30)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own = Delivery(*ids)
            exporter.lane(store).put(own, span(*ids))
            code = 0 if exporter.flush([own], timeout=30) and own.sent == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    exporter.shutdown()
    asyncio.run(store.close())


def test_a_span_that_ends_in_the_export_thread_as_it_stops_is_counted():
    """Garbage may end a span in any thread, also in the one that the shutdown waits for."""
    store = InMemoryLightningStore(thread_safe=True)
    ids = asyncio.run(rollout_of(store))
    exporter = StoreExporter()
    delivery = Delivery(*ids)
    lane = exporter.lane(store)
    waiting = threading.Event()

    async def end_a_span_when_cancelled():
        try:
            waiting.set()
            await asyncio.sleep(3600)
        finally:
            lane.put(delivery, span(*ids))

    exporter.spawn(end_a_span_when_cancelled())
    assert waiting.wait(10)
    stopper = threading.Thread(target=exporter.shutdown, daemon=True)
    stopper.start()
    stopper.join(10)
    assert not stopper.is_alive()
    assert (delivery.sent, delivery.dropped, delivery.pending) == (0, 1, 0)
    lane.put(delivery, span(*ids))
    assert exporter.flush([delivery], timeout=10)
    assert delivery.sent == 1
    exporter.shutdown()
    asyncio.run(store.close())
