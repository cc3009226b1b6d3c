"""A worker's surroundings: the real memory store, the real tracer, and a way to run a queue."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent
from agentlightning.runner import LitAgentRunner
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer


@pytest.fixture
async def store() -> AsyncGenerator[InMemoryLightningStore]:
    """An empty store."""
    store = InMemoryLightningStore(thread_safe=True)
    yield store
    await store.close()


@pytest.fixture
def working(store: InMemoryLightningStore) -> Callable[..., Any]:
    """`async with working(agent, ...) as event`: a runner works on the queue meanwhile."""

    @contextlib.asynccontextmanager
    async def working(
        agent: LitAgent[Any], *, hooks: Any = None, worker_id: int = 0, **options: Any
    ) -> AsyncGenerator[ThreadingEvent]:
        options = {"heartbeat_interval": 0.0, **options}
        runner = LitAgentRunner[Any](OtelTracer(), **options)
        event = ThreadingEvent()
        with runner.run_context(agent=agent, store=store, hooks=hooks, worker_id=worker_id):
            task = asyncio.create_task(runner.iter(event=event))
            try:
                yield event
            finally:
                event.set()
                await asyncio.wait_for(task, 20)

    return working
