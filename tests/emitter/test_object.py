"""Values are emitted and read back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.emitter import emit_object, encode_object, get_object_value
from agentlightning.errors import TracerError
from agentlightning.types import Span
from tests.support.spans import make_span

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(values | st.binary())
def test_values_come_back(value):
    """What was emitted is read back with its type."""
    span = Span.from_core_fields(emit_object(value, propagate=False))
    back = get_object_value(span)
    assert back == value
    assert type(back) is type(value)


def test_type_names():
    """The stored type is the class's name."""
    assert encode_object({})["agentlightning.object.type"] == "dict"
    assert encode_object(None)["agentlightning.object.type"] == "NoneType"
    assert encode_object(True) == {
        "agentlightning.object.type": "bool",
        "agentlightning.object.literal": "True",
    }
    assert encode_object(b"\x00")["agentlightning.object.literal"] == "AA=="


def test_what_json_cannot_express_is_refused():
    """Other objects are a RuntimeError that says to convert them."""
    with pytest.raises(RuntimeError, match="convert"):
        emit_object(object(), propagate=False)
    assert issubclass(TracerError, RuntimeError)


def test_spans_without_a_value():
    """Other spans, and broken ones, have no value."""
    assert get_object_value(make_span("a")) is None
    assert get_object_value(make_span("a", agentlightning__object__json="{")) is None
    broken = {"agentlightning__object__type": "int", "agentlightning__object__literal": "x"}
    assert get_object_value(make_span("a", **broken)) is None
