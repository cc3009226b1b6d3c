"""The table of spans against a plain list: filters, order, pages, changes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning._internal.aio import drive
from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import DuplicatedPrimaryKeyError
from agentlightning.store.collections.filtering import compile_filter, sort_records
from agentlightning.store.collections.span_table import SpanTable
from agentlightning.types import Span


def span(rollout="r", attempt="a", name="n", number=1, **fields) -> Span:
    return Span.from_attributes(
        attributes={"x": 1},
        rollout_id=rollout,
        attempt_id=attempt,
        name=name,
        sequence_id=number,
        **fields,
    )


SPANS = st.lists(
    st.builds(
        span,
        rollout=st.sampled_from("rs"),
        attempt=st.sampled_from("ab"),
        name=st.sampled_from(["n", "m", "nm"]),
        number=st.integers(1, 6),
        start_time=st.none() | st.floats(0, 3),
    ),
    max_size=12,
)
OWNERS = st.fixed_dictionaries(
    {},
    optional={
        "rollout_id": st.builds(lambda v: {"exact": v}, st.sampled_from("rsx")),
        "attempt_id": st.builds(lambda v: {"exact": v}, st.sampled_from("abx")),
    },
)
NAMES = st.sampled_from(
    [{}, {"name": {"exact": "n"}}, {"name": {"contains": "m"}, "attempt_id": {"exact": "a"}}]
)
SORTS = st.none() | st.builds(
    lambda name, order: {"name": name, "order": order},
    st.sampled_from(["sequence_id", "start_time", "name"]),
    st.sampled_from(["asc", "desc"]),
)


@given(
    SPANS,
    OWNERS,
    NAMES,
    st.sampled_from(["and", "or"]),
    st.booleans(),
    SORTS,
    st.integers(-1, 5),
    st.integers(0, 5),
)
def test_pages_are_those_of_a_list(spans, owner, names, aggregate, must, sort, limit, offset):
    """Whatever is asked for, the answer is that of filtering, sorting and cutting a plain list."""
    spans = sorted(spans, key=lambda one: one.rollout_id)
    table = SpanTable()
    drive(table.insert(spans))
    options = {**names, "_aggregate": aggregate, "_must": owner} if must else {**names, **owner}
    test = compile_filter(options)
    wanted = sort_records([one for one in spans if test is None or test(one)], Span, sort)
    found = drive(table.query(options, sort, limit, offset))
    assert found.total == len(wanted)
    assert list(found) == wanted[offset : None if limit == -1 else offset + limit]
    first = drive(table.get(options, sort))
    assert first == (wanted[0] if wanted else None)


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=8).map(sorted),
    st.lists(st.sampled_from([None, 0.5, 2.0, math.nan]), max_size=2),
    st.sampled_from(["asc", "desc"]),
    st.integers(-1, 5),
    st.integers(0, 5),
)
def test_rows_in_order_are_cut_as_if_sorted(times, later, order, limit, offset):
    """Pages of spans that came in the order of a time, ties included, are those of a sorted list,
    also when later ones, or ones without a time, come after a first look.
    """
    table = SpanTable()
    kept = []
    sort = {"name": "end_time", "order": order}
    for batch in (times, later):
        spans = [span(end_time=time) for time in batch]
        drive(table.insert(spans))
        kept += spans
        found = drive(table.query({"rollout_id": {"exact": "r"}}, sort, limit, offset))
        wanted = sort_records(kept, Span, sort)[offset : None if limit == -1 else offset + limit]
        assert [one.span_id for one in found] == [one.span_id for one in wanted]
        assert found.total == len(kept)


async def test_insert_takes_all_or_none():
    """A span that is there, or given twice, keeps the others out."""
    table = SpanTable()
    one, two = span(), span()
    await table.insert([one])
    for spans in ([two, one], [two, two]):
        with pytest.raises(DuplicatedPrimaryKeyError):
            await table.insert(spans)
    assert await table.size() == 1
    with pytest.raises(TypeError):
        await table.insert(["nonsense"])


async def test_changes_keep_order_and_counts():
    """Updates stay in place, deletions close the gap, and the bytes follow."""
    table = SpanTable(size_of=lambda _: 10)
    spans = [span(number=number) for number in (1, 2, 3)]
    await table.insert([*spans, span(rollout="other")])
    assert table.total_bytes == 40
    changed = spans[1].model_copy(update={"name": "changed", "sequence_id": 9})
    (stored,) = await table.update([changed], ["name"])
    assert (stored.name, stored.sequence_id) == ("changed", 2)
    (stored,) = await table.upsert([changed])
    assert stored.sequence_id == 9
    await table.delete([spans[0]])
    found = await table.query({"rollout_id": {"exact": "r"}})
    assert [one.sequence_id for one in found] == [9, 3]
    by_number = {"name": "sequence_id", "order": "asc"}
    found = await table.query({"rollout_id": {"exact": "r"}}, by_number)
    assert [one.sequence_id for one in found] == [3, 9]
    assert (await table.size(), table.total_bytes) == (3, 30)
    for call in (table.delete, table.update):
        with pytest.raises(NotFoundError):
            await call([spans[0]])
    assert table.drop("r") == 2
    assert table.drop("r") == 0
    assert (await table.size(), table.total_bytes) == (1, 10)


async def test_known_spans_are_told():
    """Only span ids of the very attempt are known."""
    table = SpanTable()
    one = span(attempt="a")
    await table.insert([one])
    assert table.known("r", "a", [one.span_id, "x"]) == {one.span_id}
    assert table.known("r", "b", [one.span_id]) == set()
    assert table.known("x", "a", [one.span_id]) == set()
