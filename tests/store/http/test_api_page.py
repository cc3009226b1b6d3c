"""Tests of the page that describes the API."""

import httpx

from agentlightning.store.client_server import LightningStoreServer


def test_the_description_can_be_read(server: LightningStoreServer):
    """The page of the API names every route and loads nothing from elsewhere."""
    page = httpx.get(server.endpoint + "/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in httpx.get(server.endpoint + "/openapi.json").json()["paths"]:
        assert path in page.text
    assert "http://" not in page.text.replace("http://localhost", "")
    assert "<script" not in page.text
    assert "idempotency-key" in page.text
