"""A real gateway in front of a scripted server, with an attempt to make calls for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.price import TokenPrice
from agentlightning.gateway.server import Gateway
from agentlightning.gateway.upstream import UpstreamCapabilities
from agentlightning.store.base import LightningStore
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types.call import CallRecord
from agentlightning.types.resources import ProxyLLM
from tests.support.model_server import ModelServer

ALL = UpstreamCapabilities(token_ids=True, logprobs=True, versions=True)
HELLO: list[Any] = [{"role": "user", "content": "hi"}]


@dataclass
class Running:
    gateway: Gateway
    store: LightningStore
    server: ModelServer
    rollout_id: str
    attempt_id: str

    @property
    def base_url(self) -> str:
        """Return the base URL of the attempt."""
        llm = ProxyLLM(endpoint=self.gateway.endpoint, model="m")
        return llm.get_base_url(self.rollout_id, self.attempt_id)

    @property
    def attempt_url(self) -> str:
        """Return the same without `/v1`."""
        return self.base_url.removesuffix("/v1")

    def client(self, **options: Any) -> AsyncOpenAI:
        """Return a client that calls for the attempt; use it as a context manager."""
        defaults: dict[str, Any] = {"base_url": self.base_url, "api_key": "key", "max_retries": 0}
        return AsyncOpenAI(**{**defaults, **options})

    async def records(self, rollout_id: str | None = None) -> list[CallRecord]:
        """Return the calls of a rollout as the store has them."""
        spans = await self.store.query_spans(rollout_id or self.rollout_id)
        found = [CallRecord.from_span(span) for span in spans]
        return [record for record in found if record is not None]

    async def record(self) -> CallRecord:
        """Return the only call."""
        (record,) = await self.records()
        return record

    async def cut_off(self) -> CallRecord:
        """Return the only call, once the gateway has seen that its client left."""
        for _ in range(200):
            if await self.records():
                break
            await asyncio.sleep(0.02)
        return await self.record()


def call_from_thread(server: ModelServer, call: Callable[[Running], None]) -> None:
    """Run a gateway, and make a call from a thread without an event loop."""

    async def with_gateway() -> None:
        async with running(server) as run:
            await asyncio.to_thread(call, run)

    asyncio.run(with_gateway())


@asynccontextmanager
async def running(
    server: ModelServer,
    store: LightningStore | None = None,
    *,
    capabilities: UpstreamCapabilities = ALL,
    trained: bool = True,
    overrides: dict[str, Any] | None = None,
    defaults: dict[str, Any] | None = None,
    timeout: float = 5.0,
    price: TokenPrice | None = None,
    **options: Any,
) -> AsyncGenerator[Running]:
    """Run a gateway whose model `m` is the server's `real-m`."""
    store = store or InMemoryLightningStore()
    upstream = HttpUpstream(server.endpoint, capabilities=capabilities, timeout=timeout)
    route = ModelRoute(
        upstream=upstream,
        model="real-m",
        trained=trained,
        price=price,
        sampling_overrides=overrides or {},
        sampling_defaults=defaults or {},
    )
    gateway = Gateway(store, models={"m": route}, **options)
    rollout = await store.start_rollout(input="task")
    await gateway.start()
    try:
        yield Running(gateway, store, server, rollout.rollout_id, rollout.attempt.attempt_id)
    finally:
        await gateway.stop()
        await store.close()
