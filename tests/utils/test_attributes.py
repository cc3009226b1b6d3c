"""Attributes are flattened, rebuilt and made storable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.utils.attributes import (
    check_attributes_sanity,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    format_exception_attributes,
    full_qualified_name,
    sanitize_attribute_value,
    sanitize_attributes,
    sanitize_list_attribute_sanity,
    unflatten_attributes,
)

names = st.text("abc", min_size=1, max_size=3)
leaves = st.one_of(st.integers(), st.text(max_size=3), st.booleans())
trees = st.dictionaries(
    names,
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(names, inner, min_size=1, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(trees, st.booleans())
def test_flattening_is_undone(tree, expand):
    """A tree without empty branches comes back from its flat form, whichever way lists went."""
    assert unflatten_attributes(flatten_attributes(tree, expand_leaf_lists=expand)) == tree


def test_flatten_rules():
    """Empty branches vanish, mixed lists are expanded, tuples are values."""
    nested = {"a": {}, "b": [], "c": [1, "x"], "d": (1, 2), "e": [1, 2], "f": [{"g": None}]}
    assert flatten_attributes(nested) == {
        "c.0": 1,
        "c.1": "x",
        "d": (1, 2),
        "e": [1, 2],
        "f.0.g": None,
    }
    assert flatten_attributes({"e": [1, 2]}, expand_leaf_lists=True) == {"e.0": 1, "e.1": 2}
    assert flatten_attributes([{"a": 1}]) == {"0.a": 1}


@pytest.mark.parametrize("wrong", [{1: 2}, {"a": {2: 3}}, 3])
def test_what_has_no_dotted_spelling_is_refused(wrong):
    """Keys that are not strings, and values that are no tree, are errors."""
    with pytest.raises(ValueError):
        flatten_attributes(wrong)


def test_unflatten_rules():
    """Only complete runs of digits make lists; longer keys win over a value at their stem."""
    assert unflatten_attributes({"a.0": 1, "a.2": 2}) == {"a": {"0": 1, "2": 2}}
    assert unflatten_attributes({"a.1": "y", "a.0": "x"}) == {"a": ["x", "y"]}
    assert unflatten_attributes({"a": 1, "a.b": 2}) == {"a": {"b": 2}}
    assert unflatten_attributes({"a.b": 2, "a": 1}) == {"a": {"b": 2}}
    assert unflatten_attributes({}) == {}


def test_filters():
    """A prefix means whole path parts, and its bare key is a value rather than a tree."""
    attributes = {"a": 1, "a.b": 2, "ab": 3}
    assert filter_attributes(attributes, "a") == {"a": 1, "a.b": 2}
    assert filter_and_unflatten_attributes({"a.b": 2, "ab": 3}, "a") == {"b": 2}
    with pytest.raises(ValueError, match="'a'"):
        filter_and_unflatten_attributes(attributes, "a")


def test_sanitize():
    """Primitives and their lists stay; anything else becomes JSON, or text if it must."""
    assert sanitize_attributes({"a": 1, "b": None, "c": {"d": 1}, "e": [1, "x"], "f": (1, 2)}) == {
        "a": 1,
        "b": "null",
        "c": '{"d": 1}',
        "e": '[1, "x"]',
        "f": [1, 2],
    }
    assert sanitize_attribute_value([]) == "[]"
    assert "object" in str(sanitize_attribute_value(object()))
    circular: list[object] = []
    circular.append(circular)
    assert sanitize_attribute_value(circular) == "[[...]]"
    with pytest.raises(ValueError, match="object"):
        sanitize_attribute_value(object(), force=False)


def test_sanity_checks():
    """What OpenTelemetry would drop is refused, and what it takes is let through."""
    check_attributes_sanity({"a": 1, "b": ["x"], "c": (1.5,), "d": []})
    assert sanitize_list_attribute_sanity([1, 2]) == [1, 2]
    for wrong in ({"a": None}, {"a": {}}, {"a": [1, "x"]}, {1: 1}):
        with pytest.raises(ConfigurationError):
            check_attributes_sanity(wrong)


def test_exceptions():
    """An exception is described by type, message and stack."""
    try:
        raise ConfigurationError("wrong")
    except ConfigurationError as error:
        described = format_exception_attributes(error)
    assert described["exception.type"] == "agentlightning.errors.ConfigurationError"
    assert described["exception.message"] == "wrong"
    assert described["exception.escaped"] is True
    assert "test_exceptions" in str(described["exception.stacktrace"])


def test_names():
    """Builtins go by their short name."""
    assert full_qualified_name(dict) == "dict"
    assert full_qualified_name(ConfigurationError) == "agentlightning.errors.ConfigurationError"
