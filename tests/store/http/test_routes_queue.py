"""Tests of enqueueing, dequeueing and waiting by raw HTTP."""

import httpx

from tests.store.http.conftest import ok

ROLLOUT_KEYS = [
    "rollout_id", "input", "start_time", "end_time", "mode", "resources_id", "status", "config",
    "metadata",
]  # fmt: skip


ATTEMPT_KEYS = [
    "rollout_id", "attempt_id", "sequence_id", "start_time", "end_time", "status", "worker_id",
    "last_heartbeat_time", "metadata",
]  # fmt: skip


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
