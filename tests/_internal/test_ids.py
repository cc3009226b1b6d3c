"""Identifiers: their shapes, and the one that is derived."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning._internal import ids


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (ids.new_rollout_id, "ro-[0-9a-f]{12}"),
        (ids.new_attempt_id, "at-[0-9a-f]{8}"),
        (ids.new_resources_id, "rs-[0-9a-f]{12}"),
        (ids.new_call_id, "ca-[0-9a-f]{16}"),
        (ids.new_trace_id, "[0-9a-f]{32}"),
        (ids.new_span_id, "[0-9a-f]{16}"),
    ],
)
def test_ids_have_their_shape_and_differ(make, pattern: str):
    """Each kind has its prefix and length, and does not repeat."""
    made = {make() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(pattern, one) for one in made)


@given(st.text(), st.text())
def test_trace_id_depends_on_both_ids_only(rollout_id: str, attempt_id: str):
    """Two processes derive the same id, and another attempt gets another one."""
    trace_id = ids.attempt_trace_id(rollout_id, attempt_id)
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    assert trace_id == ids.attempt_trace_id(rollout_id, attempt_id)
    assert trace_id != ids.attempt_trace_id(rollout_id, attempt_id + "x")
