"""Tests of what every request meets first."""

import httpx


def test_request_ids(http: httpx.Client):
    """Each answer names its request, by the caller's id if there is a usable one."""
    named = http.get("/health", headers={"x-request-id": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    first, second = (http.get("/rollouts/ro-none") for _ in range(2))
    assert first.json()["request_id"] == first.headers["x-request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    for odd in ("a b", "x" * 200, ""):
        answer = http.get("/health", headers={"x-request-id": odd})
        assert answer.headers["x-request-id"] not in ("", odd)
    assert http.get("/nothing", headers={"x-request-id": "n"}).headers["x-request-id"] == "n"
