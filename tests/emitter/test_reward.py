"""Rewards are emitted as annotations."""

import math
from fractions import Fraction

import numpy as np
import pytest

from agentlightning.emitter import emit_reward, get_reward_value, get_rewards_from_span, reward
from agentlightning.errors import RewardError, TracerError
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import Span
from agentlightning.utils.otel import make_link_attributes, make_tag_attributes


@pytest.mark.parametrize(
    ("given", "value"),
    [(1, 1.0), (True, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5), (Fraction(1, 4), 0.25)],
)
def test_a_number_is_the_primary_dimension(given, value):
    """Any kind of real number is stored as a float under `primary`."""
    span = emit_reward(given, propagate=False)
    assert span.name == "agentlightning.annotation"
    assert span.status.status_code == "OK"
    assert span.attributes == {
        "agentlightning.reward.0.name": "primary",
        "agentlightning.reward.0.value": value,
    }
    assert type(span.attributes["agentlightning.reward.0.value"]) is float


def test_dimensions_start_with_the_primary_one():
    """A dict of rewards is read back with the primary dimension first."""
    made = emit_reward({"style": 1, "score": 0.5}, primary_key="score", propagate=False)
    span = Span.from_core_fields(made)
    assert [(r.name, r.value) for r in get_rewards_from_span(span)] == [
        ("score", 0.5),
        ("style", 1.0),
    ]
    assert get_reward_value(span) == 0.5


@pytest.mark.parametrize(
    ("given", "primary_key", "error"),
    [
        ("1", None, TypeError),
        (None, None, TypeError),
        ([1.0], None, TypeError),
        ({"a": 1.0}, None, RewardError),
        ({"a": 1.0}, "b", RewardError),
        ({"a": "x"}, "a", RewardError),
        (math.nan, None, RewardError),
        ({"a": 1.0, "b": math.inf}, "a", RewardError),
    ],
)
def test_what_is_no_reward_is_refused(given, primary_key, error):
    """Wrong types are TypeErrors, wrong dimensions ValueErrors, as in 0.3.0."""
    with pytest.raises(error):
        emit_reward(given, primary_key=primary_key, propagate=False)
    assert issubclass(RewardError, ValueError)


def test_attributes_and_links():
    """Tags and links ride along, and the link to a span comes after them."""
    extra = {**make_tag_attributes(["fast"]), **make_link_attributes({"conversation": "7"})}
    span = emit_reward(1.0, attributes=extra, propagate=False, span_id="ff")
    assert span.attributes["agentlightning.tag.0"] == "fast"
    assert span.attributes["agentlightning.link.0.key_match"] == "conversation"
    assert span.attributes["agentlightning.link.1.key_match"] == "span_id"
    assert span.attributes["agentlightning.link.1.value_match"] == "ff"


def test_outside_of_a_trace():
    """Without an active tracer there is an error that says what to do."""
    with pytest.raises(TracerError, match="No active tracer"):
        emit_reward(1.0)


async def test_decorator():
    """The deprecated decorator emits what the function returns, and nothing for None."""
    with pytest.warns(DeprecationWarning, match="emit_reward"):

        @reward
        def score(value):
            return value

    with pytest.warns(DeprecationWarning):

        @reward
        async def score_later(value):
            return value

    tracer = OtelTracer()
    with tracer.lifespan():
        async with tracer.trace_context():
            assert score(0.5) == 0.5
            assert score(None) is None
            assert await score_later(0.25) == 0.25
    assert [get_reward_value(s) for s in tracer.get_last_trace()] == [0.5, 0.25]
    assert score.__name__ == "score"
