"""Records as rows: whatever a record holds comes back from columns and body."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import InvalidRequestError
from agentlightning.store.collections.sql.codec import RecordCodec
from agentlightning.store.collections.sql.records import ATTEMPTS, ROLLOUTS
from agentlightning.store.collections.sql.text import from_text, to_text
from agentlightning.types import Attempt, Rollout, RolloutConfig

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CODEC: RecordCodec[Rollout] = ROLLOUTS.codec


def rollout(value, **fields) -> Rollout:
    return Rollout(
        rollout_id="r",
        input=value,
        start_time=0.1,
        mode="val",
        config=RolloutConfig(max_attempts=2, retry_condition=["timeout"]),
        **{"metadata": {"m": value}, **fields},
    )


@given(JSON)
def test_json_values_survive(value):
    """Any JSON value, odd numbers and texts included, comes back equal, in its own types."""
    record = rollout(value)
    back = CODEC.record(CODEC.row(record))
    assert back == record
    assert repr(back.input) == repr(record.input)
    assert list(back.model_dump()) == list(record.model_dump())


@pytest.mark.parametrize("value", [None, [None], "null", {"a": None}, 2**64, 10**30, "a\ud800b"])
def test_what_the_fast_library_cannot_write_survives(value):
    """Nulls, the word null, large integers and broken Unicode come back as they were."""
    assert from_text(to_text(value, "x")) == value
    assert type(from_text(to_text(value, "x"))) is type(value)


def test_not_a_number_survives():
    """NaN and the infinities come back, in free values and in columns."""
    back = CODEC.record(CODEC.row(rollout([math.nan, math.inf, -math.inf])))
    assert math.isnan(back.input[0])
    assert back.input[1:] == [math.inf, -math.inf]
    attempt = Attempt(
        rollout_id="r", attempt_id="a", sequence_id=1, start_time=math.inf, end_time=math.nan
    )
    row = list(ATTEMPTS.codec.row(attempt))
    # SQLite and PostgreSQL may give a NaN back as NULL.
    row[ATTEMPTS.fields.index("end_time")] = None
    back = ATTEMPTS.codec.record(row)
    assert back.start_time == math.inf
    assert math.isnan(back.end_time)


def test_records_without_extras_have_an_empty_body():
    """What equals its default takes no room."""
    plain = Attempt(rollout_id="r", attempt_id="a", sequence_id=1, start_time=1.0)
    assert ATTEMPTS.codec.body(plain) == "{}"
    assert ATTEMPTS.codec.record(ATTEMPTS.codec.row(plain)) == plain
    record = Rollout(rollout_id="r", input=None, start_time=1.0)
    assert CODEC.body(record) == "{}"
    assert CODEC.record(CODEC.row(record)) == record


def test_models_and_dates_become_json():
    """Models, tuples and dates in free fields are stored as what JSON has for them."""
    value = {"c": RolloutConfig(), "t": (1, 2), "d": datetime(2026, 1, 2, tzinfo=UTC)}
    back = CODEC.record(CODEC.row(rollout(value))).input
    assert back["c"]["max_attempts"] == 1
    assert back["t"] == [1, 2]
    assert back["d"].startswith("2026-01-02")


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, lambda: None])
def test_other_values_are_refused(value):
    """What has no JSON form is refused, naming the record."""
    with pytest.raises(InvalidRequestError, match="Rollout cannot be stored"):
        CODEC.body(rollout(value))


def test_only_what_changed_is_named():
    """Changed columns are told apart from a changed body."""
    record = rollout(1)
    moved = record.model_copy(update={"status": "running", "end_time": 2.0})
    assert CODEC.changed(record, moved) == ["status", "end_time"]
    assert CODEC.same_body(record, moved)
    assert not CODEC.same_body(record, record.model_copy(update={"metadata": {"m": 2}}))
