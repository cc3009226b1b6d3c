"""Tests of counting requests."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.http.app import StoreApp
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.utils.metrics import MetricsBackend

TOKEN = "secret"


class Counted(MetricsBackend):
    """A metrics back end that keeps what it is told."""

    def __init__(self) -> None:
        self.registered: list[str] = []
        self.counts: list[dict[str, str] | None] = []
        self.seconds: list[float] = []

    def register_counter(self, name: str, *_: Any, **__: Any) -> None:
        self.registered.append(name)

    def register_histogram(self, name: str, *_: Any, **__: Any) -> None:
        self.registered.append(name)

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: dict[str, str] | None = None
    ) -> None:
        self.counts.append(labels)

    async def observe_histogram(
        self, name: str, value: float, labels: dict[str, str] | None = None
    ) -> None:
        self.seconds.append(value)


@pytest.fixture(scope="module")
def tracker() -> Counted:
    return Counted()


@pytest.fixture(scope="module")
def locked(tracker: Counted) -> Iterator[LightningStoreServer]:
    """A server that wants a token and counts requests."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0, token=TOKEN, tracker=tracker)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
    asyncio.run(store.close())


def test_requests_are_counted_by_route(locked: LightningStoreServer, tracker: Counted):
    """Each request is counted under its route's template, not under its path."""
    assert set(tracker.registered) == {"agl.http.total", "agl.http.latency", "agl.otlp.rejected"}
    tracker.counts.clear()
    authorized = {"authorization": f"Bearer {TOKEN}"}
    httpx.get(locked.endpoint + "/v1/agl/rollouts/ro-1", headers=authorized)
    httpx.get(locked.endpoint + "/v1/agl/statistics")
    assert tracker.counts == [
        {"path": "/v1/agl/rollouts/{rollout_id}", "method": "GET", "status": "404"},
        {"path": "other", "method": "GET", "status": "401"},
    ]
    assert all(seconds > 0 for seconds in tracker.seconds)


async def test_prometheus_can_scrape():
    """A tracker that Prometheus can read adds a route with what was counted."""
    from agentlightning.utils.metrics import PrometheusMetricsBackend

    app = StoreApp(InMemoryLightningStore(), tracker=PrometheusMetricsBackend())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        await http.get("/v1/agl/health")
        scraped = await http.get("/v1/prometheus/")
    assert scraped.status_code == 200
    assert 'agl_http_total{method="GET",path="/v1/agl/health",status="200"} 1.0' in scraped.text
