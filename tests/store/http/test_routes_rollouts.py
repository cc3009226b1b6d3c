"""Tests of the routes of rollouts and attempts by raw HTTP."""

from typing import Any

import httpx

from tests.store.http.conftest import ok

PAGE_KEYS = {"items", "limit", "offset", "total"}


def test_start_and_change_a_rollout(http: httpx.Client):
    """A rollout is started past the queue, and only given fields are changed."""
    started = ok(http.post("/rollouts", json={"input": "x", "mode": "val"}), 201)
    assert started["status"] == "preparing"
    path = f"/rollouts/{started['rollout_id']}"
    changed = ok(http.post(path, json={"metadata": {"k": 1}, "mode": None}))
    assert (changed["metadata"], changed["mode"], changed["input"]) == ({"k": 1}, None, "x")
    again = ok(http.post(f"{path}/attempts"), 201)
    assert again["attempt"]["sequence_id"] == 2


def test_listing_rollouts(http: httpx.Client):
    """GET with a query string and POST with JSON give the same page."""
    ids = sorted(
        ok(http.post("/rollouts", json={"input": i, "mode": "test"}), 201)["rollout_id"]
        for i in range(3)
    )
    query: dict[str, Any] = {"rollout_id_in": ids, "sort_by": "rollout_id", "limit": 2}
    page = ok(http.get("/rollouts", params=query))
    assert set(page) == PAGE_KEYS
    assert [item["rollout_id"] for item in page["items"]] == ids[:2]
    assert (page["limit"], page["offset"], page["total"]) == (2, 0, 3)
    assert ok(http.post("/rollouts/search", json=query)) == page
    rest = ok(http.get("/rollouts", params={**query, "offset": 2, "mode_in": ["test"]}))
    assert [item["rollout_id"] for item in rest["items"]] == ids[2:]
    none = {**query, "mode_in": ["train"]}
    assert ok(http.post("/rollouts/search", json=none))["total"] == 0


def test_unknown_ids(http: httpx.Client):
    """An unknown rollout is 404 with a code; what may be absent is null."""
    for response in (
        http.get("/rollouts/ro-none"),
        http.post("/rollouts/ro-none", json={"mode": "val"}),
        http.post("/rollouts/ro-none/attempts"),
        http.post("/rollouts/ro-none/attempts/at-none", json={"status": "failed"}),
    ):
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        assert "ro-none" in response.json()["detail"]
    assert ok(http.get("/rollouts/ro-none/attempts/latest")) is None
    assert ok(http.get("/rollouts/ro-none/attempts"))["items"] == []
    assert ok(http.get("/workers/w-none")) is None
    assert ok(http.get("/resources/rs-none")) is None


def test_conveniences_for_curl(http: httpx.Client):
    """Agents that have only curl can start, settle and announce themselves."""
    ids = [ok(http.post("/rollouts", json={"input": i}), 201)["rollout_id"] for i in range(3)]
    done = ok(http.post(f"/rollouts/{ids[0]}/finish", json={"reward": 0.5, "output": "4"}))
    assert done["status"] == "succeeded"
    assert ok(http.get("/spans", params={"rollout_id": ids[0]}))["total"] == 1
    failed = ok(http.post(f"/rollouts/{ids[1]}/fail", json={"error": "broke"}))
    assert failed["status"] == "failed"
    attempt = ok(http.post(f"/rollouts/{ids[2]}/attempt"), 201)["attempt"]["attempt_id"]
    assert ok(http.post(f"/rollouts/{ids[2]}/attempt/{attempt}/finish"))["status"] == "succeeded"
    assert ok(http.post("/workers", json={"worker_id": "w-curl"}), 201)["worker_id"] == "w-curl"
    stats = {"heartbeat_stats": {"gpu": 1}}
    assert ok(http.post("/workers/w-curl/heartbeat", json=stats))["heartbeat_stats"] == {"gpu": 1}
