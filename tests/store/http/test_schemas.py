"""Tests of values that no route takes: each is refused with a code and a sentence."""

import json
from typing import Any

import httpx
import pytest

from agentlightning.types import AttemptedRollout
from tests.store.http.conftest import JSON, make_span, refused


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"nonsense", b"\xff\xfe", b'{"rollouts": 3}', b'{"other": []}',
     b'{"rollouts": [{}]}', b'{"rollouts": [{"input": 1, "mode": "training"}]}',
     b'{"rollouts": [{"input": 1, "config": {"max_attempts": 0}}]}',
     b'{"rollouts": [{"input": NaN}]}', b'{"rollouts": [{"input": "\\ud83d"}]}'],
)  # fmt: skip
def test_malformed_enqueue(http: httpx.Client, body: bytes):
    """A body that is not what the route needs is 422."""
    refused(http.post("/queues/rollouts/enqueue", content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/queues/rollouts/dequeue", {"limit": "many"}),
        ("/queues/rollouts/dequeue", {"wait_seconds": -1}),
        ("/queues/rollouts/dequeue", {"worker_id": ""}),
        ("/queues/rollouts/dequeue", {"limit": 10**9}),
        ("/waits/rollouts", {"rollout_ids": "ro-1"}),
        ("/waits/rollouts", {"rollout_ids": [], "timeout": -0.5}),
        ("/rollouts/search", {"status_in": ["pending"]}),
        ("/rollouts/search", {"limit": 2.5}),
        ("/spans/search", {}),
        ("/spans/search", {"rollout_id": ""}),
        ("/spans/next", {"rollout_id": "ro-1"}),
        ("/spans/next/bulk", {"pairs": [["ro-1"]]}),
        ("/spans/bulk", {"spans": []}),
        ("/spans", {"rollout_id": "ro-1"}),
        ("/resources", {"llm": {"resource_type": "car"}}),
        ("/workers", {"worker_id": None}),
    ],
)
def test_wrong_shapes(http: httpx.Client, path: str, body: Any):
    """Values of the wrong type or out of range are 422."""
    refused(http.post(path, json=body), 422)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": -2},
        {"limit": 2**60},
        {"offset": -1},
        {"sort_by": "nonsense"},
        {"sort_by": "metadata"},
        {"sort_order": "up"},
        {"filter_logic": "xor"},
    ],
)
def test_impossible_pages(http: httpx.Client, query: dict[str, Any]):
    """Page sizes, orders and joins that make no sense are 400, as in 0.3.0."""
    refused(http.get("/rollouts", params=query), 400)
    refused(http.post("/rollouts/search", json=query), 400)
    refused(http.get("/spans", params={"rollout_id": "ro-1", **query}), 400)


def test_nulls_that_clear_nothing(http: httpx.Client, claim: AttemptedRollout):
    """Fields that cannot be cleared refuse null."""
    path = f"/rollouts/{claim.rollout_id}"
    for name in ("status", "config"):
        assert name in refused(http.post(path, json={name: None}), 400)
    for name in ("status", "worker_id", "last_heartbeat_time", "metadata"):
        assert name in refused(http.post(f"{path}/attempts/latest", json={name: None}), 400)
    refused(http.post("/workers/w-null", json={"heartbeat_stats": None}), 400)


def test_wrong_spans(http: httpx.Client, claim: AttemptedRollout):
    """A span with impossible fields is refused; in a batch its position is named."""
    good = make_span(claim).model_dump()
    for change in (
        {"sequence_id": -1},
        {"sequence_id": 2**60},
        {"sequence_id": "x"},
        {"start_time": "yesterday"},
        {"attributes": {"a": {"b": 1}}},
        {"attributes": [1]},
        {"status": {"status_code": "FINE"}},
        {"trace_id": 7},
        {"resource": None},
    ):
        refused(http.post("/spans", json={**good, **change}), 422)
    batch = [good, {**good, "name": None}]
    assert "span 1" in refused(http.post("/spans/bulk", json=batch), 422)
    body = json.dumps(good).replace("2.5", "NaN").encode()
    refused(http.post("/spans", content=body, headers=JSON), 422)
    assert http.get("/spans", params={"rollout_id": claim.rollout_id}).json()["total"] == 0


def test_impossible_transitions(http: httpx.Client, claim: AttemptedRollout):
    """What the state machine forbids is 409."""
    path = f"/rollouts/{claim.rollout_id}"
    assert http.post(path, json={"status": "cancelled"}).status_code == 200
    refused(http.post(f"{path}/attempts"), 409)
