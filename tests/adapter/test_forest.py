"""Any set of spans becomes exactly one tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.forest import VIRTUAL_ROOT, arrange
from agentlightning.errors import ConfigurationError
from tests.support.spans import make_span

ids = st.sampled_from("abcdefgh")


def test_absent_parents_span_their_children():
    """A parent that was not recorded is made up, over the times of its children."""
    spans = [make_span("a", "lost", start=2, end=3), make_span("b", "lost", start=1, end=9)]
    by_id, children, root = arrange(spans)
    assert root == "lost"
    assert by_id["lost"].name == "agentlightning.virtual"
    assert (by_id["lost"].start_time, by_id["lost"].end_time) == (1, 9)
    assert children["lost"] == ["b", "a"]


def test_several_roots_get_one():
    """Two roots come under one virtual root, the earlier first."""
    by_id, children, root = arrange([make_span("a", start=5), make_span("b", start=1)])
    assert root == VIRTUAL_ROOT
    assert children[root] == ["b", "a"]
    assert by_id[root].name == "virtual-root"


def test_no_spans_are_refused():
    """An empty trace is an error that says so, and a ValueError as in 0.3.0."""
    with pytest.raises(ConfigurationError, match="at least one span"):
        arrange([])
    assert issubclass(ConfigurationError, ValueError)


@given(st.lists(st.tuples(ids, st.none() | ids), min_size=1, max_size=12))
def test_every_span_is_reached_once(drawn):
    """Whatever parents are claimed, cycles included, each span is in the tree exactly once."""
    spans = [make_span(span_id, parent) for span_id, parent in drawn]
    by_id, children, root = arrange(spans)
    seen: list[str] = []
    stack = [root]
    while stack:
        span_id = stack.pop()
        seen.append(span_id)
        stack.extend(children.get(span_id, ()))
    assert sorted(seen) == sorted(by_id)
    assert {span.span_id for span in spans} <= set(seen)
