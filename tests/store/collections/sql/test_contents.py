"""Spans as rows, and their long values as shared pieces."""

import math

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.collections.sql.contents import LONG, ContentSink
from agentlightning.store.collections.sql.records import SPANS
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import OtelResource, Span, SpanContext, TraceStatus
from agentlightning.types.tracer import Event, Link
from tests.conformance.store_spans import make_span


class Kept(ContentSink):
    """A sink that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.pieces = {}

    def flush(self, executor):
        self.pieces.update(self._new)


def there_and_back(span: Span) -> Span:
    sink = Kept()
    row = SPANS.spans.row(span, sink)
    sink.flush(None)
    (back,) = SPANS.spans.records([row], lambda names: {name: sink.pieces[name] for name in names})
    return back


def span(**fields) -> Span:
    attributes = fields.pop("attributes", {"a": 1})
    return Span.from_attributes(
        attributes=attributes, rollout_id="r", attempt_id="a", name="n", **fields
    )


VALUES = (
    st.text(max_size=20)
    | st.integers()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.lists(st.integers(), max_size=400)
    | st.lists(st.floats(allow_nan=False), max_size=4)
    | st.sampled_from(["null", "x" * 3000, "ü" * 2000, "a\0" * 900, "\ud800" * 1500, "~"])
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5))
def test_attributes_survive(attributes):
    """Attributes of any length and odd contents come back equal and in order."""
    back = there_and_back(span(attributes=attributes))
    assert back.attributes == attributes
    assert list(back.attributes) == list(attributes)


def test_every_part_of_a_span_survives():
    """Contexts, statuses, events, links, resources, extras and odd numbers come back."""
    context = SpanContext(
        trace_id="t" * 32, span_id="s" * 16, is_remote=True, trace_state={"k": "v"}
    )
    whole = span(parent_id="p" * 16, start_time=1.5)
    variants = [
        whole,
        whole.model_copy(update={"context": None, "parent": None}),
        whole.model_copy(update={"context": context, "parent": context}),
        whole.model_copy(
            update={"status": TraceStatus(status_code="ERROR", description="d", extra=[1])}
        ),
        whole.model_copy(
            update={
                "events": [Event(name="e", attributes={"k": [1]}, timestamp=None, more=2)],
                "links": [Link(context=context, attributes=None), Link(context=context)],
            }
        ),
        whole.model_copy(
            update={"resource": OtelResource(attributes={"service.name": "x"}, schema_url="u")}
        ),
        Span.model_validate({**whole.model_dump(), "custom": {"deep": [1]}, "~": {"x": "y"}}),
    ]
    for variant in variants:
        back = there_and_back(variant)
        assert back == variant
        assert back.model_dump_json() == variant.model_dump_json()
    odd = there_and_back(span(attributes={"x": math.nan, "xs": [math.inf] * 300}))
    assert math.isnan(odd.attributes["x"])
    assert odd.attributes["xs"] == [math.inf] * 300


@pytest_asyncio.fixture
async def store(tmp_path):
    store = SQLiteLightningStore(tmp_path / "a.db")
    yield store
    await store.close()


def count(store, table):
    return store.collections._engine.connection.run(f"SELECT count(*) FROM {table}")[0][0]


async def test_common_beginnings_are_stored_once(store):
    """Prompts that begin alike share their pieces, across spans and rollouts."""
    ids = list(range(1000, 3000))
    started = [await store.start_rollout(n) for n in range(3)]
    for owner in started:
        calls = [make_span(owner, attributes={"ids": ids + list(range(n))}) for n in range(5)]
        await store.add_many_spans(calls)
    alone = len(str(ids)) // LONG + 1
    assert alone <= count(store, "contents") <= alone + 8
    for owner in started:
        found = await store.query_spans(owner.rollout_id)
        assert [s.attributes["ids"] for s in found] == [ids + list(range(n)) for n in range(5)]


async def test_contents_go_with_the_last_span_that_uses_them(store):
    """Removing a rollout's spans removes what no other rollout uses, and nothing else."""
    one, two = [await store.start_rollout(n) for n in range(2)]
    shared, own = "s" * 5000, "o" * 5000
    await store.add_many_spans([make_span(one, attributes={"a": shared, "b": own})])
    await store.add_many_spans([make_span(two, attributes={"a": shared})])
    spans = store.collections.spans
    await spans.delete(list(await store.query_spans(one.rollout_id)))
    (left,) = await store.query_spans(two.rollout_id)
    assert left.attributes["a"] == shared
    await spans.delete([left])
    assert count(store, "contents") == count(store, "content_owners") == 0
    # What was removed can be stored again.
    await store.add_span(make_span(two, attributes={"a": shared}))
    assert (await store.query_spans(two.rollout_id))[0].attributes["a"] == shared


async def test_partial_removal_keeps_what_the_rest_needs(store):
    """While a rollout has spans left, its contents stay."""
    owner = await store.start_rollout(1)
    await store.add_many_spans([make_span(owner, attributes={"a": "x" * 3000}) for _ in range(2)])
    first, second = await store.query_spans(owner.rollout_id)
    await store.collections.spans.delete([first])
    assert (await store.query_spans(owner.rollout_id))[0].attributes == second.attributes


@pytest.mark.parametrize("update_fields", [None, ["attributes"]])
async def test_spans_can_be_changed(store, update_fields):
    """A span whose long value changes has the new one, and keeps its place."""
    owner = await store.start_rollout(1)
    await store.add_many_spans([make_span(owner, attributes={"a": "x" * 3000}) for _ in range(2)])
    first, second = await store.query_spans(owner.rollout_id)
    changed = first.model_copy(update={"attributes": {"a": "y" * 3000}})
    await store.collections.spans.update([changed], update_fields)
    assert list(await store.query_spans(owner.rollout_id, sort_by=None)) == [changed, second]
