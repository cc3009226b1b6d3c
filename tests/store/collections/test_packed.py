"""Packing spans: what comes out is what went in, to the type."""

import math
from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.collections.packed import PackedSpan
from agentlightning.types import Event, Link, OtelResource, Span, SpanContext, TraceStatus

TEXT = st.text(st.characters(), max_size=8)
NUMBER = st.integers(-(2**70), 2**70) | st.floats() | st.booleans()
ATTRIBUTES = st.dictionaries(
    TEXT, TEXT | NUMBER | st.lists(st.integers(), max_size=3) | st.lists(TEXT, max_size=3)
)
EXTRA = st.sampled_from([{}, {"custom": {"x": [1, None]}}])
CONTEXTS = st.builds(
    lambda trace, span, remote, state, extra: SpanContext(
        trace_id=trace, span_id=span, is_remote=remote, trace_state=state, **extra
    ),
    st.sampled_from(["t", "u"]),
    st.sampled_from(["s", "p", "q"]),
    st.booleans(),
    st.dictionaries(TEXT, TEXT, max_size=1),
    EXTRA,
)
EVENTS = st.builds(
    lambda name, attributes, time, extra: Event(
        name=name, attributes=attributes, timestamp=time, **extra
    ),
    TEXT,
    ATTRIBUTES,
    st.none() | st.floats(0, 10),
    EXTRA,
)
LINKS = st.builds(
    lambda context, attributes: Link(context=context, attributes=attributes),
    CONTEXTS,
    st.none() | ATTRIBUTES,
)
STATUSES = st.builds(
    lambda code, text, extra: TraceStatus(status_code=code, description=text, **extra),
    st.sampled_from(["UNSET", "OK", "ERROR"]),
    st.none() | TEXT,
    EXTRA,
)
SPANS = st.builds(
    lambda extra, **fields: Span(**fields, **extra),
    EXTRA,
    rollout_id=st.just("r"),
    attempt_id=st.just("a"),
    sequence_id=st.integers(0, 10**6),
    trace_id=st.sampled_from(["t", "u"]),
    span_id=st.just("s"),
    parent_id=st.sampled_from([None, "p"]),
    name=TEXT,
    status=STATUSES,
    attributes=ATTRIBUTES,
    events=st.lists(EVENTS, max_size=2),
    links=st.lists(LINKS, max_size=2),
    start_time=st.none() | st.floats(0, 2e9),
    end_time=st.none() | st.floats(0, 2e9),
    context=st.none() | CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=st.builds(OtelResource, attributes=ATTRIBUTES, schema_url=TEXT),
)


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_every_span_comes_back(spans):
    """Every field, nested and extra ones included, has its value and its type again, whatever the
    spans that it shares its shape with.
    """
    shared, before = {}, None
    for span in spans:
        before = PackedSpan(span, shared, before)
        again = before.span()
        # By text, because NaN is not equal to itself and True is equal to 1.
        assert repr(again) == repr(span)
        assert repr(again.model_dump()) == repr(span.model_dump())
        assert again.model_extra == span.model_extra
        assert again.model_fields_set >= span.model_fields_set - {"custom"}


def test_each_reading_gives_another_span():
    """Changing a span that was read, or the one that was stored, changes nothing that is kept."""
    span = Span.from_attributes(attributes={"a": [1]}, resource=OtelResource(
        attributes={"service": "x"}, schema_url=""
    ))  # fmt: skip
    packed = PackedSpan(span, {})
    span.attributes["a"] = span.resource.attributes["service"] = "changed"
    packed.span().attributes["a"] = packed.span().resource.attributes["service"] = "changed"
    assert packed.span().attributes == {"a": [1]}
    assert packed.span().resource.attributes == {"service": "x"}


def test_what_cannot_be_packed_is_kept_as_it_is():
    """Values of foreign types, which only unvalidated models hold, survive untouched."""
    span = Span.from_attributes(attributes={})
    span.attributes["n"] = np.float32(0.5)
    assert PackedSpan(span, {}).span() is span
    assert PackedSpan(span, {}).attributes["n"] == 0.5

    class Own(Span):
        pass

    own = Own.model_validate(Span.from_attributes(attributes={}).model_dump())
    assert PackedSpan(own, {}).span() is own
    own = span.model_copy(update={"attributes": OrderedDict(a=1)})
    assert PackedSpan(own, {}).span() is own


def test_what_is_nested_too_deeply_is_kept_as_it_is():
    """A storing step must not fail half-way because of what a span holds."""
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    span = Span.from_attributes(attributes={}).model_copy(update={"custom": deep})
    assert PackedSpan(span, {}).span() is span


def test_equal_parts_are_kept_once():
    """Names, trace ids, keys of attributes and resources that are equal share their memory."""
    shared = {}
    one, two = (
        Span.from_attributes(
            attributes={"".join(["a", "b"]): number},
            name="".join(["na", "me"]),
            trace_id="".join(["t"] * 32),
            resource=OtelResource(attributes={"x": 1}, schema_url=""),
        )
        for number in range(2)
    )
    first = PackedSpan(one, shared)
    second = PackedSpan(two, shared, first)
    assert first.name is second.name
    assert first.trace_id is second.trace_id
    assert first.span_id != second.span_id
    # The name, and the shape, of which the keys and the resource are parts.
    assert len(shared) == 2
    assert [first.span(), second.span()] == [one, two]


def test_fields_are_read_without_being_kept():
    """A packed span has every field of a span, so that any of them can be filtered by."""
    span = Span.from_attributes(attributes={"x": math.inf}, name="n", start_time=1.0)
    packed = PackedSpan(span, {})
    for field in Span.model_fields:
        assert getattr(packed, field) == getattr(span, field)
