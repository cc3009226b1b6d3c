"""Tests of serving one route: broken HTTP, sizes, and repeated requests."""

import gzip
import socket

import httpx
import pytest

from agentlightning.store.base import LightningStore, LightningStoreStatistics
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.http.app import StoreApp
from tests.store.http.conftest import JSON, ok, refused


def test_broken_http_does_not_stop_the_server(server: LightningStoreServer, http: httpx.Client):
    """Garbage and cut connections leave the server serving."""
    host, port = server.endpoint.removeprefix("http://").split(":")
    for garbage in (
        b"\x00\x01\x02\r\n\r\n",
        b"POST /v1/agl/spans HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v1/agl/spans HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET " + b"a" * 100_000,
    ):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(garbage)
    assert http.get("/health").json() == {"status": "ok"}


def test_a_repeated_key_gives_the_first_answer(http: httpx.Client):
    """Two requests with one idempotency key are one request, on one route."""
    keyed = {"idempotency-key": "k-1"}
    first = ok(http.post("/rollouts", json={"input": 1}, headers=keyed), 201)
    assert ok(http.post("/rollouts", json={"input": 1}, headers=keyed), 201) == first
    other = ok(http.post("/rollouts", json={"input": 1}, headers={"idempotency-key": "k-2"}), 201)
    assert other["rollout_id"] != first["rollout_id"]
    unkeyed = ok(http.post("/rollouts", json={"input": 1}), 201)
    assert unkeyed["rollout_id"] != first["rollout_id"]


class Failing(LightningStore):
    """A store with a bug."""

    async def statistics(self) -> LightningStoreStatistics:
        raise KeyError("a secret of the inside")


async def test_bugs_and_sizes(caplog: pytest.LogCaptureFixture):
    """A bug is a 500 with an id and no trace; a body over the limit is 413, packed or not."""
    app = StoreApp(Failing(), body_limit=1000)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app/v1/agl") as http:
        crash = await http.get("/statistics")
        assert crash.status_code == 500
        assert set(crash.json()) == {"detail", "code", "error_id", "request_id"}
        assert "secret" not in crash.text
        assert "a secret of the inside" in caplog.text
        big = b'"' + b"a" * 1000 + b'"'
        assert "larger than 1000" in refused(
            await http.post("/rollouts", content=big, headers=JSON), 413
        )
        packed = {**JSON, "content-encoding": "gzip"}
        bomb = gzip.compress(b" " * 100_000)
        assert len(bomb) < 1000
        refused(await http.post("/rollouts", content=bomb, headers=packed), 413)

        async def endless():
            for _ in range(100):
                yield b"a" * 100

        refused(await http.post("/rollouts", content=endless(), headers=JSON), 413)
