"""Giving back what a worker held, against the real store."""

import asyncio
from typing import Any

from agentlightning._internal.clock import now
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent
from agentlightning.runner import LitAgentRunner
from agentlightning.runner.lease import ClaimWatch, release_rollouts
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import RolloutConfig
from tests.runner.test_agent import enqueue, finished


async def claim(store, task="x", worker="Worker-1", **config):
    await store.enqueue_rollout(task, config=RolloutConfig(**config))
    return await store.dequeue_rollout(worker)


async def test_claims_of_a_dead_worker_come_back(store):
    """Every rollout that a worker left open is queued again, its attempt marked interrupted."""
    item = await claim(store)
    other = await claim(store, worker="Worker-2")
    assert await release_rollouts(store, "Worker-1", since=0.0) == 1
    found = await store.get_rollout_by_id(item.rollout_id)
    assert found.status == "requeuing"
    (attempt,) = await store.query_attempts(item.rollout_id)
    assert (attempt.status, attempt.metadata["outcome"]) == ("failed", "interrupted")
    again = await store.dequeue_rollout("Worker-3")
    assert (again.rollout_id, again.attempt.sequence_id) == (item.rollout_id, 2)
    assert (await store.get_rollout_by_id(other.rollout_id)).status == "preparing"


async def test_kept_finished_and_older_claims_are_left_alone(store):
    """Only open claims made since the given time, and not in work, are given back."""
    kept = await claim(store, worker="Worker-1")
    ended = await claim(store, worker="Worker-1")
    await store.update_attempt(ended.rollout_id, ended.attempt.attempt_id, status="succeeded")
    assert await release_rollouts(store, "Worker-1", since=0.0, keep={kept.rollout_id}) == 0
    assert await release_rollouts(store, "Worker-1", since=now() + 60) == 0
    assert (await store.get_rollout_by_id(kept.rollout_id)).status == "preparing"


async def test_a_rollout_that_keeps_losing_workers_fails(store):
    """A rollout comes back twice beyond `max_attempts`, then it fails with the reason."""
    item = await claim(store)
    for _ in range(2):
        await release_rollouts(store, "Worker-1", since=0.0)
        item = await store.dequeue_rollout("Worker-1")
    await release_rollouts(store, "Worker-1", since=0.0)
    found = await store.get_rollout_by_id(item.rollout_id)
    assert found.status == "failed"
    assert found.attempt.metadata["outcome"] == "harness_error"
    assert "Worker-1" in found.attempt.metadata["error"]["message"]


class NoEvents:
    """The part of a store that the watch uses, from a time before there were events."""

    def __init__(self, store):
        self.get_rollout_by_id = store.get_rollout_by_id

    def subscribe(self, **_):
        raise NotImplementedError


class Running:
    def __init__(self, attempt_id):
        self.attempt_id, self.is_settling, self.lease_seconds = attempt_id, False, None
        self.stopped = asyncio.get_running_loop().create_future()

    def stop(self, cause):
        if not self.stopped.done():
            self.stopped.set_result(cause)


async def test_stores_without_events_are_asked(store):
    """Cancellation is also noticed where the store has no event stream."""
    item = await claim(store)
    run = Running(item.attempt.attempt_id)
    watch = ClaimWatch(NoEvents(store), {item.rollout_id: run}, poll_seconds=0.01)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0.05)
    assert not run.stopped.done()
    await store.update_rollout(item.rollout_id, status="cancelled")
    assert await asyncio.wait_for(run.stopped, 10) == "cancelled"
    task.cancel()
    await asyncio.wait({task})


async def test_the_watch_ignores_what_is_not_ours(store):
    """Events of rollouts that this worker does not run stop nothing."""
    item = await claim(store)
    run = Running(item.attempt.attempt_id)
    watch = ClaimWatch(store, {item.rollout_id: run}, poll_seconds=0.01)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0.05)
    (other,) = await enqueue(store, ["y"])
    await store.update_rollout(other, status="cancelled")
    await asyncio.sleep(0.05)
    assert not run.stopped.done()
    await store.update_rollout(item.rollout_id, status="cancelled")
    assert await asyncio.wait_for(run.stopped, 10) == "cancelled"
    task.cancel()
    await asyncio.wait({task})


async def test_an_overtaken_attempt_is_stopped_at_once(store):
    """Who lost its rollout to another attempt hears of it, whatever the rollout's status was."""
    for begin_work in (False, True):
        item = await claim(store, worker="Worker-1")
        if begin_work:
            await store.update_attempt(item.rollout_id, item.attempt.attempt_id, status="running")
        run = Running(item.attempt.attempt_id)
        watch = ClaimWatch(store, {item.rollout_id: run}, poll_seconds=0.01)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        assert not run.stopped.done()
        await store.start_attempt(item.rollout_id, "Worker-2")
        assert await asyncio.wait_for(run.stopped, 10) == "lost"
        task.cancel()
        await asyncio.wait({task})


class Distant(InMemoryLightningStore):
    """A store whose answers about rollouts are long under way."""

    def __init__(self) -> None:
        super().__init__(thread_safe=True)
        self.asked, self.arrive = asyncio.Event(), asyncio.Event()

    async def get_rollout_by_id(self, rollout_id):
        answer = await super().get_rollout_by_id(rollout_id)
        self.asked.set()
        await self.arrive.wait()
        return answer


async def test_a_claim_made_while_an_answer_is_under_way_is_kept():
    """A rollout that is taken from a worker and given to it again: the old attempt is stopped, and
    what was said of it before the new claim does not stop the new one."""
    store, begun, leave = Distant(), asyncio.Queue[str](), asyncio.Event()

    class Working(LitAgent[Any]):
        async def rollout_async(self, task, resources, rollout):
            begun.put_nowait(rollout.attempt.attempt_id)
            await leave.wait()
            return 1.0

    (item,) = await enqueue(store, ["x"])
    runner, event = LitAgentRunner[Any](OtelTracer(), concurrency=2), ThreadingEvent()
    with runner.run_context(agent=Working(), store=store):
        task = asyncio.create_task(runner.iter(event=event))
        async with asyncio.timeout(20):
            old = await begun.get()
            await store.update_rollout(item, status="requeuing")
            new = await begun.get()
            await store.asked.wait()
            store.arrive.set()
            while (await store.query_attempts(item))[0].metadata.get("error") is None:
                await asyncio.sleep(0.01)
            leave.set()
            (ended,) = await finished(store, [item])
            event.set()
            await task
    assert (ended.status, ended.attempt.attempt_id) == ("succeeded", new)
    first = (await store.query_attempts(item))[0]
    assert first.attempt_id == old
    assert first.metadata["error"]["type"] == "RolloutStoppedError"
    await store.close()
