"""The claim loop with stores that are old, away, or broken."""

import asyncio
from typing import Any

import pytest

from agentlightning.errors import StoreError, StoreUnavailableError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.runner import LitAgentRunner, claim
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from tests.runner.test_agent import Returning, enqueue, finished


class OldStore(InMemoryLightningStore):
    """A user's store of 0.3.0, whose claim does not wait and which has no events."""

    async def dequeue_rollout(self, worker_id=None):
        return await super().dequeue_rollout(worker_id)

    def subscribe(self, **_):
        raise NotImplementedError


class Flaky(InMemoryLightningStore):
    """Fails its first claims and settlements."""

    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__()
        self.failures, self.error = failures, error

    async def dequeue_rollout(self, worker_id=None, *, wait_seconds=0.0):
        self._fail()
        return await super().dequeue_rollout(worker_id, wait_seconds=wait_seconds)

    async def update_attempt(self, *args, **kwargs):
        self._fail()
        return await super().update_attempt(*args, **kwargs)

    def _fail(self):
        if self.failures:
            self.failures -= 1
            raise self.error


async def run_two(store, **options):
    runner = LitAgentRunner[Any](OtelTracer(), heartbeat_interval=0, **options)
    event = ThreadingEvent()
    with runner.run_context(agent=Returning(), store=store):
        task = asyncio.create_task(runner.iter(event=event))
        await asyncio.sleep(0.05)
        ids = await enqueue(store, [1.0, 2.0])
        waiting = asyncio.create_task(finished(store, ids))
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        event.set()
        waiting.cancel() if task.done() else await waiting
        await asyncio.wait_for(task, 10)
    await store.close()
    return waiting.result()


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_stores_that_cannot_wait_are_asked_again(concurrency):
    """A store whose claim has no `wait_seconds` is polled at the poll interval."""
    done = await run_two(
        OldStore(), poll_interval=0.02, interval_jitter=0.01, concurrency=concurrency
    )
    assert [item.status for item in done] == ["succeeded", "succeeded"]


async def test_outages_are_waited_out(monkeypatch):
    """Claims and settlements that fail for a moment are made again, and nothing is lost."""
    monkeypatch.setattr(claim, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("agentlightning.runner.settlement._RETRY_SECONDS", 0.01)
    done = await run_two(Flaky(6, StoreUnavailableError("away")))
    assert [item.status for item in done] == ["succeeded", "succeeded"]


async def test_refusals_end_the_runner():
    """An error of the store that will not pass ends `iter` with it."""
    with pytest.raises(StoreError, match="broken"):
        await run_two(Flaky(1_000, StoreError("broken")))
