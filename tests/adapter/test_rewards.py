"""Rewards are read back from every format that writes them."""

import math

import pytest

from agentlightning.adapter.rewards import (
    find_final_reward,
    find_reward_spans,
    get_reward_value,
    get_rewards_from_span,
    is_reward_span,
)
from tests.support.spans import make_reward_span, make_span


def test_dimensions_come_primary_first():
    """The dimensions of a reward are ordered by index, whatever the order of the keys."""
    span = make_span(
        "a",
        agentlightning__reward__1__name="style",
        agentlightning__reward__1__value=2,
        agentlightning__reward__0__value=0.5,
        agentlightning__reward__0__name="score",
    )
    assert [(r.name, r.value) for r in get_rewards_from_span(span)] == [
        ("score", 0.5),
        ("style", 2.0),
    ]
    assert get_reward_value(span) == 0.5


@pytest.mark.parametrize(
    ("attributes", "name", "expected"),
    [
        ({"agentops.task.output": '{"type": "reward", "value": 0.5}'}, "x", 0.5),
        ({"agentops.entity.output": '{"type": "reward", "value": 1}'}, "x", 1.0),
        ({"agentops.entity.output": '{"type": "reward", "value": null}'}, "x", None),
        ({"agentops.entity.output": '{"type": "other", "value": 1}'}, "x", None),
        ({"agentops.entity.output": "no json"}, "x", None),
        ({"reward": 0.25}, "agentlightning.annotation", 0.25),
        ({"reward": 0.25}, "something else", None),
        ({"agentlightning.reward.0.name": "x"}, "x", None),
        ({"agentlightning.reward.x.value": 1.0}, "x", None),
        ({"agentlightning.reward.0.name": "x", "agentlightning.reward.0.value": "1"}, "x", None),
        (
            {"agentlightning.reward.0.name": "x", "agentlightning.reward.0.value": math.nan},
            "x",
            None,
        ),
    ],
)
def test_foreign_and_broken_formats(attributes, name, expected):
    """AgentOps outputs and the first format are read; what is no reward gives None."""
    span = make_span("a", name=name)
    span.attributes = attributes
    assert get_reward_value(span) == expected
    assert is_reward_span(span) is (expected is not None)


def test_final_reward_is_the_last_in_the_list():
    """The last span with a value decides, not the latest in time."""
    spans = [make_reward_span("a", 1.0, 9.0), make_reward_span("b", 0.0, 1.0), make_span("c")]
    assert find_final_reward(spans) == 0.0
    assert find_reward_spans(spans) == spans[:2]
    assert find_final_reward([make_span("c")]) is None
