"""Tests of the API description that is made from the table of routes."""

from typing import Any

from agentlightning.store.http.app import OPERATIONS
from agentlightning.store.http.openapi import describe_api


def references(value: Any) -> set[str]:
    """Return every `$ref` within a document."""
    if isinstance(value, list):
        return set().union(*map(references, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return found.union(*map(references, value.values()))


def test_every_route_is_described():
    """Each operation has a summary, an id of its own, and answers; GETs have query parameters."""
    described = describe_api(OPERATIONS, title="T", version="1")
    operations = [o for path in described["paths"].values() for o in path.values()]
    assert len(operations) == len(OPERATIONS)
    assert len({o["operationId"] for o in operations}) == len(OPERATIONS)
    assert all(o["summary"] and {"4XX", "5XX"} < set(o["responses"]) for o in operations)
    listing = described["paths"]["/v1/agl/rollouts"]["get"]
    names = {parameter["name"] for parameter in listing["parameters"]}
    assert {"status_in", "limit", "offset", "sort_by", "filter_logic"} <= names
    update = described["paths"]["/v1/agl/rollouts/{rollout_id}/attempts/{attempt_id}"]["post"]
    names = [p["name"] for p in update["parameters"]]
    assert names == ["rollout_id", "attempt_id", "idempotency-key"]


def test_every_reference_leads_somewhere():
    """No schema refers to one that is not in the document."""
    described = describe_api(OPERATIONS, title="T", version="1")
    known = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert references(described) <= known
