"""Tests of the routes by raw HTTP: paths, statuses and the exact shapes of answers."""

from typing import Any

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.http.app import OPERATIONS
from agentlightning.types import AttemptedRollout
from tests.store.http.conftest import make_span

ROLLOUT_KEYS = [
    "rollout_id", "input", "start_time", "end_time", "mode", "resources_id", "status", "config",
    "metadata",
]  # fmt: skip
ATTEMPT_KEYS = [
    "rollout_id", "attempt_id", "sequence_id", "start_time", "end_time", "status", "worker_id",
    "last_heartbeat_time", "metadata",
]  # fmt: skip
SPAN_KEYS = [
    "rollout_id", "attempt_id", "sequence_id", "trace_id", "span_id", "parent_id", "name",
    "status", "attributes", "events", "links", "start_time", "end_time", "context", "parent",
    "resource",
]  # fmt: skip
WORKER_KEYS = [
    "worker_id", "status", "heartbeat_stats", "last_heartbeat_time", "last_dequeue_time",
    "last_busy_time", "last_idle_time", "current_rollout_id", "current_attempt_id",
]  # fmt: skip
RESOURCES_KEYS = ["resources_id", "create_time", "update_time", "version", "resources"]
PAGE_KEYS = {"items", "limit", "offset", "total"}


def ok(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def test_health_and_statistics(http: httpx.Client):
    """The server says that it lives, and what it holds."""
    assert ok(http.get("/health")) == {"status": "ok"}
    assert ok(http.get("/statistics"))["name"] == "InMemoryLightningStore"


def test_a_rollout_from_queue_to_end(http: httpx.Client):
    """Enqueue, dequeue, update and read keep the shapes of 0.3.0."""
    (queued,) = ok(http.post("/queues/rollouts/enqueue", json={"rollouts": [{"input": [1]}]}), 201)
    assert list(queued) == ROLLOUT_KEYS
    assert (queued["status"], queued["input"], queued["mode"]) == ("queuing", [1], None)
    assert queued["config"] == {
        "timeout_seconds": None,
        "unresponsive_seconds": None,
        "max_attempts": 1,
        "retry_condition": [],
    }
    (claimed,) = ok(http.post("/queues/rollouts/dequeue", json={"limit": 2, "worker_id": "w-1"}))
    assert list(claimed) == [*ROLLOUT_KEYS, "attempt"]
    assert list(claimed["attempt"]) == ATTEMPT_KEYS
    assert claimed["attempt"]["worker_id"] == "w-1"
    path = f"/rollouts/{queued['rollout_id']}"
    attempt = ok(http.post(f"{path}/attempts/latest", json={"status": "succeeded"}))
    assert attempt["status"] == "succeeded"
    assert ok(http.get(path))["status"] == "succeeded"
    assert ok(http.get(f"{path}/attempts/latest")) == attempt
    page = ok(http.get(f"{path}/attempts"))
    assert page == {"items": [attempt], "limit": -1, "offset": 0, "total": 1}
    assert ok(http.post(f"{path}/attempts/search", json={"limit": 1}))["items"] == [attempt]
    assert ok(http.post("/waits/rollouts", json={"rollout_ids": [queued["rollout_id"]]}))


def test_an_empty_queue_gives_an_empty_list(http: httpx.Client):
    """Dequeueing without a body, and enqueueing nothing, give empty lists."""
    while ok(http.post("/queues/rollouts/dequeue")):
        pass
    assert ok(http.post("/queues/rollouts/dequeue", json={"limit": 0})) == []
    assert ok(http.post("/queues/rollouts/enqueue", json={"rollouts": []}), 201) == []


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


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/agl/nothing", 404, "no_route"),
        ("GET", "/v1/other", 404, "no_route"),
        ("DELETE", "/v1/agl/rollouts", 405, "method_not_allowed"),
        ("POST", "/v1/metrics", 501, "not_implemented"),
        ("POST", "/v1/logs", 501, "not_implemented"),
        ("POST", "/v1/development/profiles", 501, "not_implemented"),
    ],
)
def test_what_no_route_takes(
    server: LightningStoreServer, method: str, path: str, status: int, code: str
):
    """Wrong paths and methods are answered in the shape of every other error."""
    response = httpx.request(method, server.endpoint + path)
    assert response.status_code == status
    assert set(response.json()) == {"detail", "code"}
    assert response.json()["code"] == code


def test_front_page_and_description(server: LightningStoreServer):
    """The root page leads to a description that lists every route."""
    assert "/openapi.json" in httpx.get(server.endpoint).text
    described = httpx.get(server.endpoint + "/openapi.json").json()
    listed = {
        (method.upper(), path) for path, methods in described["paths"].items() for method in methods
    }
    assert listed == {(o.method, "/v1/agl" + o.path) for o in OPERATIONS}
    assert {"Rollout", "Span", "EnqueueRequest", "Error"} <= set(described["components"]["schemas"])
    bodies = described["paths"]["/v1/agl/spans"]["post"]["requestBody"]["content"]
    assert bodies["application/json"]["schema"] == {"$ref": "#/components/schemas/Span"}
