"""Annotations are emitted flat."""

import pytest

from agentlightning.emitter import emit_annotation


def test_nested_facts_are_flattened():
    """Nested facts become dotted keys, lists of one type stay."""
    span = emit_annotation({"a": {"b": 1}, "c": ["x", "y"]}, propagate=False)
    assert span.name == "agentlightning.annotation"
    assert span.attributes == {"a.b": 1, "c": ["x", "y"]}
    assert span.status.status_code == "OK"


@pytest.mark.parametrize("wrong", [{"a": object()}, {"a": None}, {1: 2}])
def test_what_cannot_be_stored_is_refused(wrong):
    """A value that OpenTelemetry would drop is an error."""
    with pytest.raises(ValueError):
        emit_annotation(wrong, propagate=False)
