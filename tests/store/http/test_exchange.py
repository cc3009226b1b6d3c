"""Tests of reading requests: encodings, content types, odd ids and queries."""

import gzip

import httpx

from tests.store.http.conftest import JSON, refused


def test_wrong_content_types(http: httpx.Client):
    """A body declared as something else than JSON, or packed in an unknown way, is 415."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        refused(http.post("/rollouts", content=b"{}", headers={"content-type": kind}), 415)
    packed = {**JSON, "content-encoding": "br"}
    refused(http.post("/rollouts", content=b"{}", headers=packed), 415)


def test_gzip_bodies(http: httpx.Client):
    """A gzip body is read; a broken or cut one is refused."""
    packed = gzip.compress(b'{"input": "packed"}')
    headers = {**JSON, "content-encoding": "gzip"}
    answer = http.post("/rollouts", content=packed, headers=headers)
    assert answer.json()["input"] == "packed"
    refused(http.post("/rollouts", content=b"plain", headers=headers), 422)
    refused(http.post("/rollouts", content=packed[:-9], headers=headers), 422)


def test_odd_ids_and_queries(http: httpx.Client):
    """Odd ids find nothing or are refused, and odd query strings are refused or ignored."""
    for odd in ("..%2F..", "%F0%9F%92%A9", "'; DROP TABLE rollouts;--"):
        answer = http.get(f"/rollouts/{odd}")
        assert answer.json().get("code") == "not_found", (odd, answer.status_code, answer.text)
    for wrong in ("%00", "%0A", "%FF", "a" * 3000):
        refused(http.get(f"/rollouts/{wrong}"), 400)
    assert http.get("/rollouts?unknown=1&unknown=2&limit=1").status_code == 200
    refused(http.get("/rollouts?limit=one"), 422)
