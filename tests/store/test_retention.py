"""Policies as values; what they do is in the conformance suite of every store."""

import pytest
from pydantic import ValidationError

from agentlightning.store.retention import READ_KEY, RetentionPolicy, is_read
from agentlightning.types import Rollout


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"what": "rollouts"},
        {"keep_seconds": -1},
        {"keep_seconds": float("nan")},
        {"keep_rollouts": -1},
        {"keep_bytes": 1.5},
        {"keep_rollouts": 1, "what": "everything"},
        {"keep_rollouts": 1, "keep_days": 1},
    ],
)
def test_a_policy_must_limit_something(fields):
    """No limit, a negative one or a misspelt one is refused, rather than removing everything."""
    with pytest.raises(ValidationError):
        RetentionPolicy(**fields)


@pytest.mark.parametrize(
    ("end_time", "metadata", "read"),
    [
        (5.0, {READ_KEY: 5.0}, True),
        (5.0, {READ_KEY: 4.0}, False),
        (None, {READ_KEY: 4.0}, False),
        (5.0, {READ_KEY: "yes"}, False),
        (5.0, None, False),
    ],
)
def test_a_mark_counts_from_the_end_on(end_time, metadata, read):
    """Only a mark that was set after the rollout's end says that it was read."""
    rollout = Rollout(rollout_id="r", input=1, start_time=1.0, end_time=end_time, metadata=metadata)
    assert is_read(rollout) is read
