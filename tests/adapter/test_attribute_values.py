"""Values in attributes are read whatever they are; reading never fails."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.attribute_values import (
    as_items,
    as_mapping,
    first_ids,
    first_number,
    first_text,
    integer_list,
    literal,
    nested,
    parsed,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(anything)
def test_nothing_fails(value):
    """Every reader takes every value."""
    attributes = {"a": value, "b.0": value}
    parsed(value)
    literal(value)
    integer_list(value)
    as_mapping(value)
    as_items(value)
    for prefix in "ab":
        nested(attributes, prefix)
    assert isinstance(first_ids(attributes, ["a"]), list)
    assert isinstance(first_text(attributes, ["a"]), str | None)
    assert isinstance(first_number(attributes, ["a"]), int | None)


def test_the_first_that_fits_is_taken():
    """Keys are tried in order; values of other kinds, and empty ones, are passed over."""
    attributes = {"a": "", "b": 3, "c": "text", "d": [], "e": "[1, 2]", "f": True}
    assert first_text(attributes, ["x", "a", "b", "c"]) == "text"
    assert first_number(attributes, ["f", "a", "b"]) == 3
    assert first_ids(attributes, ["d", "c", "e"]) == [1, 2]


def test_literals():
    """What LiteLLM writes with `str()` is read back."""
    assert literal("[{'a': None}]") == [{"a": None}]
    assert literal("not one") is None
    assert literal([1]) == [1]
