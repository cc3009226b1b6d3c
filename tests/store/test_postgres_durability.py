"""The store in a PostgreSQL server that waits for the disk, and is killed in the midst of writes."""

import asyncio
import itertools
import signal
from collections import Counter

from agentlightning.store.check import check_store
from agentlightning.store.postgres import PostgresLightningStore
from tests.conformance.store_spans import make_span
from tests.support.postgres import PostgresProcess

KILLS = 2
WRITERS = 6


class Writers:
    """Tasks that write until they are told to stop, and note what was acknowledged."""

    def __init__(self, store):
        self.store = store
        self.stopped = False
        self.enqueued = Counter()
        self.spans = Counter()
        self.finished = set()

    async def work(self, name):
        for n in itertools.count():
            if self.stopped:
                return
            task = f"{name}-{n}"
            await self.store.enqueue_rollout(task, metadata={"writer": name})
            self.enqueued[task] += 1
            claimed = await self.store.dequeue_rollout(f"worker-{name}")
            if claimed is None:
                continue
            await self.store.add_many_spans([make_span(claimed, f"{n:016x}")])
            self.spans[claimed.rollout_id] += 1
            await self.store.finish_rollout(claimed.rollout_id, reward=0.5)
            self.finished.add(claimed.rollout_id)

    async def grow(self, count):
        """Wait until so many more rollouts have ended."""
        aim = len(self.finished) + count
        while len(self.finished) < aim:
            await asyncio.sleep(0.005)


async def test_killed_server_keeps_all_that_was_acknowledged():
    """After each kill the same store goes on by itself, all that it acknowledged is there, once."""
    server = PostgresProcess(fsync=True)
    try:
        assert (await asyncio.to_thread(server.run, "SHOW fsync"))[0][0] == "on"
        assert (await asyncio.to_thread(server.run, "SHOW synchronous_commit"))[0][0] == "on"
        store = PostgresLightningStore(server.url(), pool_size=4)
        writers = Writers(store)
        tasks = [asyncio.create_task(writers.work(n)) for n in range(WRITERS)]
        for _ in range(KILLS):
            await asyncio.wait_for(writers.grow(10), 60)
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await asyncio.to_thread(server.start)
        await asyncio.wait_for(writers.grow(10), 60)
        writers.stopped = True
        await asyncio.gather(*tasks)
        await verify(writers)
        await store.close()
    finally:
        server.close()


async def verify(writers):
    rollouts = await writers.store.query_rollouts()
    assert Counter(rollout.input for rollout in rollouts) == writers.enqueued
    assert set(writers.enqueued.values()) == {1}
    by_id = {rollout.rollout_id: rollout for rollout in rollouts}
    for rollout_id in writers.finished:
        assert by_id[rollout_id].status == "succeeded"
        assert by_id[rollout_id].attempt.sequence_id == 1
    for rollout_id, count in writers.spans.items():
        spans = await writers.store.query_spans(rollout_id)
        ended = rollout_id in writers.finished
        assert [span.sequence_id for span in spans] == list(range(1, count + 1 + ended))
    last = await writers.store.last_event_seq()
    events = writers.store.subscribe(since=0)
    kept = [await anext(events) for _ in range(last)]
    await events.aclose()
    assert [event.seq for event in kept] == list(range(1, last + 1))
    created = Counter(event.rollout_id for event in kept if event.kind == "rollout_created")
    assert created == dict.fromkeys(by_id, 1)
    ends = Counter(
        event.rollout_id
        for event in kept
        if event.kind == "rollout_updated" and event.status == "succeeded"
    )
    assert ends == dict.fromkeys(writers.finished, 1)
    assert (await check_store(writers.store)).is_sound
