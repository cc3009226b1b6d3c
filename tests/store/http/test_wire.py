"""Tests of encoding models to JSON and of reading what others send."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.errors import UnprocessableError
from agentlightning.store.http.wire import (
    decode,
    encode,
    page_body,
    rollout_from_wire,
)
from agentlightning.store.http.wire_span import encode_spans, span_from_wire
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    Event,
    Link,
    OtelResource,
    PaginatedResult,
    Rollout,
    Span,
    SpanContext,
    TraceStatus,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**53), 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | floats | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
attribute_values = (
    text
    | st.booleans()
    | numbers
    | floats
    | st.lists(text, max_size=4)
    | st.lists(numbers, max_size=4)
    | st.lists(floats, max_size=4)
    | st.lists(st.booleans(), max_size=4)
)
contexts = st.builds(
    SpanContext,
    trace_id=text,
    span_id=text,
    is_remote=st.booleans(),
    trace_state=st.dictionaries(text, text, max_size=2),
)
attributes = st.dictionaries(text, attribute_values, max_size=4)
spans = st.builds(
    Span,
    rollout_id=text,
    attempt_id=text,
    sequence_id=st.integers(0, 2**53),
    trace_id=text,
    span_id=text,
    parent_id=st.none() | text,
    name=text,
    status=st.builds(TraceStatus, status_code=st.sampled_from(["OK", "ERROR", "UNSET"])),
    attributes=attributes,
    events=st.lists(st.builds(Event, name=text, attributes=attributes), max_size=2),
    links=st.lists(st.builds(Link, context=contexts), max_size=1),
    start_time=st.none() | floats,
    end_time=st.none() | floats,
    context=st.none() | contexts,
    parent=st.none() | contexts,
    resource=st.builds(OtelResource, attributes=attributes, schema_url=text),
)


@given(json_values)
def test_json_values_survive(value: Any):
    """What is JSON comes back as it was sent."""
    assert decode(encode(value)) == value


@given(spans)
def test_spans_survive(span: Span):
    """A span comes back equal, with the types of its attributes and their order."""
    (raw,) = decode(encode_spans([span]))
    back = span_from_wire(raw)
    assert back == span
    assert back.model_dump_json() == span.model_dump_json()
    assert list(back.attributes) == list(span.attributes)


@given(spans)
def test_quick_reading_agrees_with_pydantic(span: Span):
    """Reading lists by hand gives what pydantic's own validation gives."""
    raw = json.loads(span.model_dump_json())
    assert span_from_wire(raw) == Span.model_validate(raw)


def test_unknown_fields_of_spans_survive():
    """A field that we do not know travels along."""
    span = Span.from_attributes(attributes={"a": [1]})
    extended = Span.model_validate({**span.model_dump(), "kind": "SERVER"})
    back = span_from_wire(decode(encode_spans([extended]))[0])
    assert back.model_extra == {"kind": "SERVER"}


def test_odd_values_are_sent_as_near_as_json_allows():
    """Keys that are numbers, big integers, surrogates and arrays do not stop a message."""

    @dataclasses.dataclass
    class Task:
        size: int

    sent = {
        1: "one",
        "big": 2**70,
        "cut": "a\ud83d",
        "array": np.arange(3),
        "task": Task(size=2),
        "pair": (1, 2),
        "nan": math.nan,
    }
    got = json.loads(encode(sent))
    assert got == {
        "1": "one",
        "big": 2**70,
        "cut": "a\ufffd",
        "array": [0, 1, 2],
        "task": {"size": 2},
        "pair": [1, 2],
        "nan": None,
    }


def test_what_is_no_json_is_refused():
    """An object without a JSON form is named in the error."""
    with pytest.raises(InvalidRequestError, match="cannot be sent as JSON"):
        encode({"task": object()})


def test_non_finite_attributes_survive():
    """NaN and infinities in attributes travel by name, and come back as numbers."""
    attributes = {"loss": math.nan, "up": math.inf, "steps": [1.0, -math.inf], "text": "NaN"}
    sent = encode_spans([Span.from_attributes(attributes=attributes)])
    (raw,) = json.loads(sent)
    assert raw["attributes"] == {
        "loss": "NaN",
        "up": "Infinity",
        "steps": [1.0, "-Infinity"],
        "text": "NaN",
    }
    back = span_from_wire(decode(sent)[0])
    assert math.isnan(back.attributes.pop("loss"))  # type: ignore[arg-type]
    assert back.attributes == {"up": math.inf, "steps": [1.0, -math.inf], "text": "NaN"}
    assert back.model_extra == {}


@pytest.mark.parametrize("names", [3, ["other"], ["text"], [["a"]], [None]])
def test_wrong_names_of_odd_numbers_are_refused(names: Any):
    """A span that names attributes which are no numbers is refused."""
    raw = Span.from_attributes(attributes={"text": "a"}).model_dump()
    with pytest.raises(UnprocessableError):
        span_from_wire({**raw, "non_finite_attributes": names})


def test_null_attributes_are_left_out():
    """An attribute without a value is dropped, as OpenTelemetry does."""
    raw = Span.from_attributes(attributes={"a": 1}).model_dump()
    raw["attributes"] = {"gone": None, "ids": [1, 2], "a": 1}
    raw["events"] = [{"name": "e", "attributes": {"x": None, "y": 1}}]
    span = span_from_wire(raw)
    assert span.attributes == {"ids": [1, 2], "a": 1}
    assert span.events[0].attributes == {"y": 1}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nan", b"[NaN]", b"[Infinity]", b'"\\ud83d"', b"\xff", b"[" * 5000]
)
def test_what_is_not_json_is_refused(body: bytes):
    """Text that is not strictly JSON is an error of the caller."""
    with pytest.raises(UnprocessableError, match="not valid JSON"):
        decode(body)


@pytest.mark.parametrize("sequence_id", [-1, 2**53 + 1])
def test_sequence_ids_out_of_range_are_refused(sequence_id: int):
    """A negative or inexact sequence id is refused."""
    raw = {**Span.from_attributes(attributes={}).model_dump(), "sequence_id": sequence_id}
    with pytest.raises(UnprocessableError, match="sequence_id"):
        span_from_wire(raw)


@pytest.mark.parametrize("values", [[1, None], [[1], [2]], [{"a": 1}], {"a": 1}])
def test_attributes_of_wrong_type_are_refused(values: Any):
    """Nested attributes and lists with nulls are refused."""
    raw = {**Span.from_attributes(attributes={}).model_dump(), "attributes": {"bad": values}}
    with pytest.raises(ValidationError):
        span_from_wire(raw)


def test_rollouts_keep_their_kind():
    """A rollout with an attempt comes back as one, and one without as one without."""
    rollout = Rollout(rollout_id="ro-1", input=None, start_time=1.0)
    attempt = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=1.0)
    attempted = AttemptedRollout(**rollout.model_dump(), attempt=attempt)
    assert type(rollout_from_wire(decode(encode(rollout)))) is Rollout
    assert rollout_from_wire(decode(encode(attempted))) == attempted


def test_pages_have_one_shape():
    """A page and the plain list of a foreign store give the same body."""
    page = PaginatedResult[Any](items=["a"], limit=5, offset=2, total=3)
    assert page_body(page, -1, 0) == {"items": ["a"], "limit": 5, "offset": 2, "total": 3}
    assert page_body(["a"], 5, 2) == {"items": ["a"], "limit": 5, "offset": 2, "total": 1}
