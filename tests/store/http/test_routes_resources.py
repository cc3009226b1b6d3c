"""Tests of the routes of resources and workers by raw HTTP."""

import httpx

from tests.store.http.conftest import ok

WORKER_KEYS = [
    "worker_id", "status", "heartbeat_stats", "last_heartbeat_time", "last_dequeue_time",
    "last_busy_time", "last_idle_time", "current_rollout_id", "current_attempt_id",
]  # fmt: skip


RESOURCES_KEYS = ["resources_id", "create_time", "update_time", "version", "resources"]


def test_resources(http: httpx.Client):
    """Resources are published, versioned, listed and found as the latest."""
    prompt = {"resource_type": "prompt_template", "template": "a {b}", "engine": "f-string"}
    llm = {"resource_type": "llm", "endpoint": "http://x/v1", "model": "m"}
    made = ok(http.post("/resources", json={"prompt": prompt}), 201)
    assert list(made) == RESOURCES_KEYS
    assert (made["version"], made["resources"]) == (1, {"prompt": prompt})
    path = f"/resources/{made['resources_id']}"
    second = ok(http.post(path, json={"llm": llm}))
    assert (second["version"], second["create_time"]) == (2, made["create_time"])
    assert second["resources"]["llm"] == {**llm, "api_key": None, "sampling_parameters": {}}
    assert ok(http.get(path)) == ok(http.get("/resources/latest")) == second
    assert ok(http.get(f"{path}@1"))["resources"] == {"prompt": prompt}
    page = ok(http.get("/resources", params={"resources_id": made["resources_id"]}))
    assert page == {"items": [second], "limit": -1, "offset": 0, "total": 1}
    assert ok(http.put("/resources/mine", json={"llm": llm}))["resources_id"] == "mine"


def test_workers(http: httpx.Client):
    """A heartbeat adds a worker, which is then found and listed."""
    worker = ok(http.post("/workers/w-http", json={"heartbeat_stats": {"cpu": 0.5}}))
    assert list(worker) == WORKER_KEYS
    assert (worker["status"], worker["heartbeat_stats"]) == ("unknown", {"cpu": 0.5})
    assert ok(http.get("/workers/w-http")) == worker
    query = {"worker_id_contains": "w-htt", "status_in": ["unknown"]}
    page = ok(http.get("/workers", params=query))
    assert page == {"items": [worker], "limit": -1, "offset": 0, "total": 1}
    assert ok(http.post("/workers/search", json=query)) == page
    assert ok(http.post("/workers/w-http"))["heartbeat_stats"] == {"cpu": 0.5}
