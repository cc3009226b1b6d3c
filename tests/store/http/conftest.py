"""A real server over a memory store, shared by the tests of this folder."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span


@pytest.fixture(scope="session")
def server() -> Iterator[LightningStoreServer]:
    """A server in a thread; tests make rollouts of their own in its store."""
    store = InMemoryLightningStore(thread_safe=True)
    served = LightningStoreServer(store, port=0)
    asyncio.run(served.start())
    yield served
    asyncio.run(served.stop())
    asyncio.run(store.close())


@pytest.fixture
def http(server: LightningStoreServer) -> Iterator[httpx.Client]:
    """Raw HTTP below the API's prefix."""
    with httpx.Client(base_url=server.endpoint + "/v1/agl", timeout=10) as client:
        yield client


@pytest.fixture
async def client(server: LightningStoreServer):
    """A client of the shared server."""
    made = LightningStoreClient(server.endpoint)
    yield made
    await made.close()


@pytest.fixture
async def claim(server: LightningStoreServer) -> AttemptedRollout:
    """A rollout of the shared store with a running attempt."""
    return await server.start_rollout({"question": "2 + 2"}, mode="train")


def make_span(claim: AttemptedRollout, **changes: object) -> Span:
    """Return a span of the claim's attempt."""
    fields = {
        "attributes": {"answer": 4},
        "rollout_id": claim.rollout_id,
        "attempt_id": claim.attempt.attempt_id,
        "name": "step",
        "start_time": 1.0,
        "end_time": 2.5,
        **changes,
    }
    return Span.from_attributes(**fields)  # type: ignore[arg-type]


JSON = {"content-type": "application/json"}


def ok(response: httpx.Response, status: int = 200) -> Any:
    """Return the body of an answer that must have this status."""
    assert response.status_code == status, response.text
    return response.json()


def refused(response: httpx.Response, status: int) -> str:
    """Return the sentence of an error that must have this status and the shape of all errors."""
    body = response.json()
    assert response.status_code == status, body
    assert set(body) == {"detail", "code", "request_id"}
    assert "Traceback" not in body["detail"]
    assert len(body["detail"]) > 10
    return body["detail"]
