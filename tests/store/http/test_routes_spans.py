"""Tests of the routes of spans by raw HTTP: exact shapes, one by one and in bulk."""

import httpx

from agentlightning.types import AttemptedRollout
from tests.store.http.conftest import make_span, ok

SPAN_KEYS = [
    "rollout_id", "attempt_id", "sequence_id", "trace_id", "span_id", "parent_id", "name",
    "status", "attributes", "events", "links", "start_time", "end_time", "context", "parent",
    "resource",
]  # fmt: skip


def test_spans(http: httpx.Client, claim: AttemptedRollout):
    """A span is stored once, numbered, and found by its fields."""
    sent = make_span(claim).model_dump()
    stored = ok(http.post("/spans", json=sent), 201)
    assert list(stored) == SPAN_KEYS
    assert stored == {**sent, "sequence_id": 1}
    assert ok(http.post("/spans", json=sent), 201) is None
    query = {"rollout_id": claim.rollout_id, "name": "step"}
    page = ok(http.get("/spans", params=query))
    assert page == {"items": [stored], "limit": -1, "offset": 0, "total": 1}
    assert ok(http.post("/spans/search", json={**query, "attempt_id": "latest"})) == page
    assert ok(http.post("/spans/search", json={**query, "name": "other"}))["total"] == 0
    ids = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id}
    assert ok(http.post("/spans/next", json=ids)) == {"sequence_id": 2}
    pairs = [[claim.rollout_id, claim.attempt.attempt_id]] * 2
    assert ok(http.post("/spans/next/bulk", json={"pairs": pairs})) == {"sequence_ids": [3, 4]}


def test_spans_in_bulk(http: httpx.Client, claim: AttemptedRollout):
    """A batch says which spans were new, by position, and is stored as a whole or not at all."""
    first, second = make_span(claim), make_span(claim)
    batch = [first.model_dump(), first.model_dump(), second.model_dump()]
    assert ok(http.post("/spans/bulk", json=batch), 201) == {
        "stored": [
            {"index": 0, "sequence_id": 1, "late": False},
            {"index": 2, "sequence_id": 2, "late": False},
        ]
    }
    assert ok(http.post("/spans/bulk", json=batch), 201) == {"stored": []}
    lost = make_span(claim, rollout_id="ro-none").model_dump()
    refused = http.post("/spans/bulk", json=[make_span(claim).model_dump(), lost])
    assert refused.status_code == 404
    assert ok(http.get("/spans", params={"rollout_id": claim.rollout_id}))["total"] == 2
