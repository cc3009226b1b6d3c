"""Stores and tracers for the tests of tracing."""

import asyncio
from collections.abc import Iterator

import pytest

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer


class TroubledStore(InMemoryLightningStore):
    """The real store behind a connection that can be slow or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        """Raised by the next calls, one each."""
        self.delay = 0.0
        self.calls: list[int] = []
        """Number of spans of each call, failed ones included."""
        self.gate: asyncio.Event | None = None
        """While it is there and not set, calls hang."""

    async def add_many_spans(self, spans):
        self.calls.append(len(spans))
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.gate:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return await super().add_many_spans(spans)


@pytest.fixture
async def store():
    """A memory store."""
    made = InMemoryLightningStore()
    yield made
    await made.close()


@pytest.fixture
async def troubled():
    """A memory store that can be told to misbehave."""
    made = TroubledStore()
    yield made
    await made.close()


@pytest.fixture
def tracer() -> Iterator[OtelTracer]:
    """A started tracer without a store of its own."""
    made = OtelTracer()
    with made.lifespan():
        yield made


async def start(store) -> dict[str, str]:
    """Start a rollout and return the ids for `trace_context`."""
    rollout = await store.start_rollout(input={})
    return {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}


@pytest.fixture
def begin():
    """The function that starts a rollout."""
    return start
