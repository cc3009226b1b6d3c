"""Tests of finding endpoints by method and path."""

from typing import Any

import pytest

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.routing import RouteTable


@pytest.fixture
def table() -> RouteTable:
    made = RouteTable()
    for method, path in (
        ("GET", "/things"),
        ("GET", "/things/{id}"),
        ("POST", "/things/search"),
        ("POST", "/things/{id}/parts/{part}"),
        ("POST", "/things/{id}/parts/latest"),
    ):
        endpoint: Any = f"{method} {path}"
        made.add(method, path, endpoint)
    return made


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/things", ("GET /things", {})),
        ("HEAD", "/things", ("GET /things", {})),
        ("GET", "/things/7", ("GET /things/{id}", {"id": "7"})),
        ("GET", "/things/a%2Fb%20c", ("GET /things/{id}", {"id": "a/b c"})),
        ("GET", "/things/search", ("GET /things/{id}", {"id": "search"})),
        ("POST", "/things/search", ("POST /things/search", {})),
        ("POST", "/things/1/parts/latest", ("POST /things/{id}/parts/latest", {"id": "1"})),
        ("POST", "/things/1/parts/2", ("POST /things/{id}/parts/{part}", {"id": "1", "part": "2"})),
        ("POST", "/things", None),
        ("GET", "/things/", None),
        ("GET", "/things/1/", None),
        ("GET", "/", None),
        ("GET", "", None),
    ],
)  # fmt: skip
def test_routes_are_found(table: RouteTable, method: str, path: str, found: Any):
    """A literal segment goes before a parameter, and only if its method fits."""
    assert table.find(method, path) == found


@pytest.mark.parametrize("text", ["%00", "%0a", "%7f", "%ff", "a" * 513])
def test_parameters_that_are_no_ids(table: RouteTable, text: str):
    """Control characters, broken UTF-8 and endless ids are refused."""
    with pytest.raises(InvalidRequestError):
        table.find("GET", f"/things/{text}")
