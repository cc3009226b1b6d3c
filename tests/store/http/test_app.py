"""Tests of the application as a whole: what no route takes, and the front page."""

import httpx
import pytest

from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.http.app import OPERATIONS
from tests.store.http.conftest import ok


def test_health_and_statistics(http: httpx.Client):
    """The server says that it lives, and what it holds."""
    assert ok(http.get("/health")) == {"status": "ok"}
    assert ok(http.get("/statistics"))["name"] == "InMemoryLightningStore"


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
    assert set(response.json()) == {"detail", "code", "request_id"}
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
