"""Records as JSON text and back."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import InvalidRequestError
from agentlightning.store.collections.codec import decode, encode
from agentlightning.types import Rollout, RolloutConfig, Span

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def rollout(value) -> Rollout:
    return Rollout(
        rollout_id="r",
        input=value,
        start_time=0.1,
        mode="val",
        config=RolloutConfig(max_attempts=2, retry_condition=["timeout"]),
        metadata={"m": value},
    )


@given(JSON)
def test_json_values_survive(value):
    """Any JSON value, odd numbers and texts included, comes back equal."""
    assert decode(Rollout, encode(rollout(value))) == rollout(value)


def test_not_a_number_survives():
    """NaN and the infinities come back, which standard JSON has no form for."""
    back = decode(Rollout, encode(rollout([math.nan, math.inf, -math.inf])))
    assert math.isnan(back.input[0])
    assert back.input[1:] == [math.inf, -math.inf]


def test_lone_surrogates_survive():
    """Texts that are no valid Unicode, as broken agents send them, are kept."""
    text = "a\ud800b"
    assert decode(Rollout, encode(rollout(text))).input == text


def test_models_and_dates_become_json():
    """Models, tuples and dates in free fields are stored as what JSON has for them."""
    value = {"c": RolloutConfig(), "t": (1, 2), "d": datetime(2026, 1, 2, tzinfo=UTC)}
    back = decode(Rollout, encode(rollout(value))).input
    assert back["c"]["max_attempts"] == 1
    assert back["t"] == [1, 2]
    assert back["d"].startswith("2026-01-02")


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, lambda: None])
def test_other_values_are_refused(value):
    """What has no JSON form is refused, naming the record."""
    with pytest.raises(InvalidRequestError, match="Rollout cannot be stored"):
        encode(rollout(value))


def test_span_extras_survive():
    """Fields that a span got from elsewhere are kept beside the known ones."""
    span = Span.from_attributes(attributes={"ids": [1, 2]}, rollout_id="r", attempt_id="a")
    span = Span.model_validate({**span.model_dump(), "custom": {"deep": [1]}})
    back = decode(Span, encode(span))
    assert back == span
    assert back.model_extra == {"custom": {"deep": [1]}}
    assert type(back.context) is type(span.context)
