"""Enclosing intervals are found as by trying all pairs."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.interval import Interval, tightest_enclosing

intervals = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), max_size=15)


@given(intervals, intervals)
def test_agrees_with_all_pairs(inner, outer):
    """The sweep finds exactly the strictly enclosing intervals, the shortest first."""
    inside = [Interval(f"i{n}", s, s + d) for n, (s, d) in enumerate(inner)]
    around = [Interval(f"o{n}", s, s + d) for n, (s, d) in enumerate(outer)]
    found = tightest_enclosing(inside, around)
    lengths = {o.id: o.length for o in around}
    for i in inside:
        expected = {o.id for o in around if o.start < i.start and i.end < o.end}
        assert set(found[i.id]) == expected
        assert [lengths[o] for o in found[i.id]] == sorted(lengths[o] for o in expected)
