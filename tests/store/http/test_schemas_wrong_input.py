"""Tests of what nobody should send: each is a 4xx with a code and a sentence, and all goes on."""

import gzip
import socket
from typing import Any

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import AttemptedRollout
from tests.store.http.conftest import JSON, refused

DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = b"9" * 5000


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/rollouts", b"", 422),
        ("/rollouts", b"{", 422),
        ("/rollouts", b"[]", 422),
        ("/rollouts", b'{"input": NaN}', 422),
        ("/rollouts", b'{"input": Infinity}', 422),
        ("/rollouts", b'{"input": ' + DEEP + b"}", 422),
        ("/rollouts", b'{"input": "\xff"}', 422),
        ("/rollouts", b'{"input": "\\ud800"}', 422),
        ("/rollouts", b'{"input": 1, "rollout_id": ""}', 422),
        ("/rollouts", b'{"input": 1, "rollout_id": "%s"}' % (b"a" * 600), 422),
        ("/rollouts", b'{"input": 1, "rollout_id": "a\\u0000"}', 422),
        ("/rollouts", b'{"input": 1, "lease_seconds": 0}', 422),
        ("/rollouts", b'{"input": 1, "lease_seconds": 1e400}', 422),
        ("/rollouts", b'{"input": 1, "config": {"max_attempts": -1}}', 422),
        ("/queues/rollouts/enqueue", b'{"rollouts": [{"input": 1, "rollout_id": "\\n"}]}', 422),
        ("/rollouts/search", b'{"rollout_id_contains": "\\u0000"}', 422),
        ("/queues/rollouts/dequeue", b'{"limit": ' + HUGE + b"}", 422),
        ("/queues/rollouts/dequeue", b'{"limit": 1e30}', 422),
        ("/queues/rollouts/dequeue", b'{"wait_seconds": -1}', 422),
        ("/queues/rollouts/dequeue", b'{"wait_seconds": "soon"}', 422),
        ("/queues/rollouts/dequeue", b'{"metadata": []}', 422),
        ("/queues/rollouts/enqueue", b"{}", 422),
        ("/queues/rollouts/enqueue", b'{"rollouts": [{}]}', 422),
        ("/waits/rollouts", b'{"rollout_ids": "all"}', 422),
        ("/rollouts/search", b'{"limit": 0}', 400),
        ("/rollouts/search", b'{"limit": -2}', 400),
        ("/rollouts/search", b'{"limit": 9223372036854775808}', 400),
        ("/rollouts/search", b'{"offset": -1}', 400),
        ("/rollouts/search", b'{"sort_by": "secret"}', 400),
        ("/rollouts/search", b'{"sort_order": "up"}', 400),
        ("/rollouts/search", b'{"filter_logic": "xor"}', 400),
        ("/rollouts/search", b'{"status_in": ["pending"]}', 422),
        ("/spans", b"{}", 422),
        ("/spans/bulk", b"{}", 422),
        ("/spans/bulk", b"[1]", 422),
        ("/spans/next/bulk", b'{"pairs": [["a"]]}', 422),
        ("/resources", b"[]", 422),
        ("/resources", b'{"m": {"resource_type": "magic"}}', 422),
        ("/workers", b"{}", 422),
        ("/workers/w", b'{"heartbeat_stats": null}', 400),
        ("/workers/w", b'{"heartbeat_stats": 3}', 422),
        ("/records/export", b'{"kind": "secrets"}', 400),
        ("/records/export", b'{"kind": "rollouts", "limit": 0}', 400),
        ("/records/import", b'{"kind": "rollouts", "records": ["x"]}', 400),
        ("/retention/apply", b'{"policy": {}}', 422),
    ],
)  # fmt: skip
def test_wrong_bodies(http: httpx.Client, path: str, body: bytes, status: int):
    """A body that is no request of its route is refused with the reason."""
    refused(http.post(path, content=body, headers=JSON), status)
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_id": -1},
        {"sequence_id": 1.5},
        {"sequence_id": 2**60},
        {"start_time": "now"},
        {"attributes": {"a": {"b": 1}}},
        {"attributes": []},
        {"status": {"status_code": "GOOD"}},
        {"events": [{}]},
        {"resource": None},
        {"rollout_id": None},
    ],
)
def test_wrong_spans(http: httpx.Client, claim: AttemptedRollout, change: dict[str, Any]):
    """A span with one wrong part is refused, alone and among others."""
    span: dict[str, Any] = {
        "rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id, "sequence_id": 0,
        "trace_id": "a" * 32, "span_id": "b" * 16, "parent_id": None, "name": "n",
        "status": {"status_code": "OK"}, "attributes": {}, "events": [], "links": [],
        "start_time": 1, "end_time": None, "context": None, "parent": None,
        "resource": {"attributes": {}, "schema_url": ""},
    }  # fmt: skip
    refused(http.post("/spans", json={**span, **change}), 422)
    assert "span 1" in refused(http.post("/spans/bulk", json=[span, {**span, **change}]), 422)
    query = {"rollout_id": claim.rollout_id}
    assert http.get("/spans", params=query).json()["total"] == 0
    assert http.post("/spans", json=span).status_code == 201


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=one", 422), ("limit=1.5", 422), ("offset=-1", 400), ("limit=0", 400),
        ("limit=" + "9" * 30, 400), ("status_in=done", 422), ("metadata=x", 422),
        ("metadata=[1]", 422), ("sort_by=input", 400), ("&".join(["a"] * 11_000), 422),
    ],
)  # fmt: skip
def test_wrong_queries(http: httpx.Client, query: str, status: int):
    """A query string that makes no sense is refused; of repeated parameters the last counts."""
    refused(http.get(f"/rollouts?{query}"), status)
    page = http.get("/rollouts?limit=5&limit=1&status_in=queuing&status_in=failed")
    assert page.status_code == 200
    assert page.json()["limit"] == 1


def test_wrong_encodings(http: httpx.Client):
    """Bodies that are packed wrongly, or not what they say, are refused."""
    packed = {**JSON, "content-encoding": "gzip"}
    good = gzip.compress(b'{"input": 1}')
    for body in (b"plain", good[:-4], good[:10], b"", gzip.compress(b"{")):
        refused(http.post("/rollouts", content=body, headers=packed), 422)
    for kind in ("text/html", "application/xml", "multipart/form-data; boundary=x"):
        refused(http.post("/rollouts", content=b"{}", headers={"content-type": kind}), 415)
    odd = {**JSON, "content-encoding": "zstd"}
    refused(http.post("/rollouts", content=b"{}", headers=odd), 415)


def test_wrong_keys(http: httpx.Client):
    """An endless idempotency key is refused."""
    headers = {"idempotency-key": "k" * 256}
    refused(http.post("/rollouts", json={"input": 1}, headers=headers), 400)


async def test_ids_of_any_text(client: LightningStoreClient, http: httpx.Client):
    """Ids with slashes, quotes and other letters work through every route that names them."""
    for rollout_id in ("a/b", "é ß", "50%", "a?b#c", "..", "'; DROP TABLE spans;--", "search"):
        started = await client.start_rollout(1, rollout_id=rollout_id)
        assert started.rollout_id == rollout_id
        again = await client.start_attempt(rollout_id, attempt_id="x/y")
        await client.update_attempt(rollout_id, "x/y", status="running")
        assert [a.attempt_id for a in await client.query_attempts(rollout_id)][1:] == ["x/y"]
        done = await client.finish_rollout(rollout_id, again.attempt.attempt_id)
        assert done.status == "succeeded"
        found = await client.get_rollout_by_id(rollout_id)
        assert found is not None
        assert found.rollout_id == rollout_id
    worker = await client.update_worker("pool/7", {"load": 1})
    assert await client.get_worker_by_id("pool/7") == worker
    assert http.get("/workers/pool%2F7").json()["worker_id"] == "pool/7"
    assert (await client.update_resources("set/1", {})).resources_id == "set/1"


def test_what_is_no_http(server: LightningStoreServer):
    """Bytes that are no HTTP end their connection, and nothing else."""
    host, port = server.endpoint.removeprefix("http://").split(":")
    for wrong in (
        b"\x16\x03\x01 hello\r\n\r\n",
        b"POST /v1/agl/rollouts HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/agl/rollouts HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(wrong)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(100)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert httpx.get(server.endpoint + "/v1/agl/health").json() == {"status": "ok"}
