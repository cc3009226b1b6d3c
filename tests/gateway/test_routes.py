"""Reading addresses and headers."""

import pytest

from agentlightning.errors import RequestError
from agentlightning.gateway.routes import (
    ROLE_HEADER,
    Target,
    forwarded_headers,
    read_headers,
    read_target,
    read_trace_parent,
    seal_path,
)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/rollout/r/attempt/a/v1/x", Target("/v1/x", ("r", "a"))),
        ("/rollout/r%2F1/attempt/a%20b/v1/x%20y", Target("/v1/x%20y", ("r/1", "a b"))),
        ("/rollout/r/attempt/a", Target("/", ("r", "a"))),
        ("/rollout/r/attempt/a/messages", Target("/messages", ("r", "a"))),
        ("/rollout/r/attempt/a/chat/completions", Target("/v1/chat/completions", ("r", "a"))),
        ("/rollout/r/v1/x", Target("/rollout/r/v1/x", None)),
        ("/v1/v1/models", Target("/v1/models", None)),
    ],
)
def test_paths_say_whose_call_it_is(path: str, target: Target) -> None:
    """Ids are decoded, the rest of the path stays as it came."""
    assert read_target(path, {}) == target


def test_the_path_wins_over_headers() -> None:
    """Headers count only where the path names no attempt."""
    headers = {"x-rollout-id": "r2", "x-attempt-id": "a2"}
    assert read_target("/rollout/r/attempt/a/v1/x", headers).attempt == ("r", "a")
    assert read_target("/v1/x", headers).attempt == ("r2", "a2")
    with pytest.raises(RequestError):
        read_target("/v1/x", {"x-attempt-id": "a2"})


def test_seal_path_is_read_back() -> None:
    """The path made for a seal is the one that is served."""
    assert read_target(seal_path("r", "a"), {}) == Target("/seal", ("r", "a"))


def test_headers_are_text_and_hop_by_hop_ones_stay_behind() -> None:
    """Repeated headers are joined; what concerns one connection only is not passed on."""
    headers = read_headers([(b"Accept", b"a"), (b"accept", b"b"), (b"Connection", b"close")])
    assert headers == {"accept": "a, b", "connection": "close"}
    assert forwarded_headers({**headers, "x-rollout-id": "r"}) == {"accept": "a, b"}


@pytest.mark.parametrize("value", ["", "00-xyz-1-01", "00-" + "a" * 31 + "-" + "b" * 16 + "-01"])
def test_broken_trace_parents_are_ignored(value: str) -> None:
    """A trace context that cannot be read counts as none."""
    assert read_trace_parent({"traceparent": value}) == (None, None)


def test_a_role_comes_from_the_path_before_the_header() -> None:
    """A client that knows only base URLs can still say which agent calls."""
    path = "/rollout/ro-1/attempt/at-1/role/the%20planner/v1/chat/completions"
    target = read_target(path, {ROLE_HEADER: "other"})
    assert target == Target("/v1/chat/completions", ("ro-1", "at-1"), "the planner")
    assert read_target("/rollout/r/attempt/a/v1/models", {ROLE_HEADER: "other"}).role == "other"
