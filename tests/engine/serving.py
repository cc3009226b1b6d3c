"""The embedded engine behind a real gateway, with an attempt to make calls for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentlightning.engine.engine import Engine
from agentlightning.engine.service import EngineUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.call import CallRecord


@dataclass
class ServedEngine:
    """An attempt's address, and the calls that were made for it."""

    url: str
    """Without `/v1`."""
    store: InMemoryLightningStore
    rollout_id: str

    async def records(self) -> list[CallRecord]:
        """Return the recorded calls."""
        spans = await self.store.query_spans(self.rollout_id)
        return [record for span in spans if (record := CallRecord.from_span(span))]


@asynccontextmanager
async def serve_engine(engine: Engine) -> AsyncGenerator[ServedEngine]:
    """Serve an engine as model `m`."""
    store = InMemoryLightningStore()
    route = ModelRoute(upstream=EngineUpstream(engine, model="tiny"), model="tiny")
    gateway = Gateway(store, models={"m": route})
    rollout = await store.start_rollout(input="task")
    await gateway.start()
    attempt = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    try:
        yield ServedEngine(gateway.url + attempt, store, rollout.rollout_id)
    finally:
        await gateway.stop()
        await store.close()
