"""Requests made up from our API description: the server answers each as the description says."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.http.app import OPERATIONS
from agentlightning.store.http.openapi import describe_api
from agentlightning.store.url import open_store

# The stream of events never ends, so it has tests of its own.
schema = schemathesis.openapi.from_dict(
    describe_api(OPERATIONS, title="store", version="0")
).exclude(path="/v1/agl/events")

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
WAITS = ("wait_seconds", "timeout")


@pytest.fixture(scope="module", params=["sqlite"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A server whose store holds one rollout with an attempt."""
    path = tmp_path_factory.mktemp("schemathesis") / "a.db"
    store = open_store("memory://" if request.param == "memory" else f"sqlite:///{path}")
    server = LightningStoreServer(store, port=0)

    async def begin() -> None:
        await server.start()
        await store.start_rollout("task", rollout_id="ro-known")
        await store.start_attempt("ro-known", attempt_id="at-known")

    async def end() -> None:
        await server.stop()
        await store.close()

    asyncio.run(begin())
    yield server
    asyncio.run(end())


@pytest.fixture(scope="module")
def turns() -> Iterator[int]:
    """Counts the requests, so that some of them concern what is there."""
    return iter(range(10**9))


@schema.parametrize()
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_route_keeps_its_promises(
    case: Any, target: LightningStoreServer, turns: Iterator[int]
):
    """No request is answered with a 5xx, nor with what the description does not promise."""
    if next(turns) % 2 and case.path_parameters:
        known = {"rollout_id": "ro-known", "attempt_id": "at-known"}
        case.path_parameters = {**case.path_parameters, **known}
    if isinstance(case.body, dict):
        for name in WAITS:
            if isinstance(case.body.get(name), (int, float)):
                case.body[name] = min(case.body[name], 0.01)
    response = case.call(base_url=target.endpoint, timeout=10)
    case.validate_response(response, checks=CHECKS)
