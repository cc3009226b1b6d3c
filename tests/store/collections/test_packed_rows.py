"""Packed spans in one flat list: read as from a list of them."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.collections.packed import PackedSpan
from agentlightning.store.collections.packed_rows import PackedRows
from agentlightning.types import Span


def rows_of(count: int) -> tuple[PackedRows, list[Span]]:
    rows, shared = PackedRows(), {}
    spans = [
        Span.from_attributes(attributes={"n": n}, name=f"n{n % 2}", start_time=n, sequence_id=n)
        for n in range(count)
    ]
    for span in spans:
        rows.append(PackedSpan(span, shared))
    return rows, spans


@given(st.integers(0, 4), st.slices(5), st.integers(-6, 5))
def test_rows_are_read_as_from_a_list(count, part, index):
    """Length, iteration, slices, and positions from either end are those of a list."""
    rows, spans = rows_of(count)
    assert len(rows) == count
    assert [row.span() for row in rows] == spans
    assert [row.span() for row in rows[part]] == spans[part]
    if -count <= index < count:
        assert rows[index].span() == spans[index]
    else:
        with pytest.raises(IndexError):
            rows[index]


def test_values_are_those_of_the_rows():
    """A readable field is given for all rows from one on."""
    rows, spans = rows_of(4)
    for field in ("sequence_id", "start_time", "end_time", "name", "span_id", "trace_id"):
        assert rows.values(field, 1) == [getattr(span, field) for span in spans[1:]]
    assert rows.values("name", 4) == []


def test_the_collector_sees_no_spans():
    """Of any number of spans, the garbage collector walks at most the shape that they share."""
    rows, _ = rows_of(200)
    gc.collect()
    (cells,) = (part for part in gc.get_referents(rows) if isinstance(part, list))
    assert len({id(part) for part in gc.get_referents(cells) if gc.is_tracked(part)}) <= 1
