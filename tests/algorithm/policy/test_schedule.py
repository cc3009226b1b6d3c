"""When steps are sampled, and which groups are too old to be trained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.algorithm.policy.schedule import (
    admit,
    groups_to_start,
    oldest_version,
    open_steps,
    signal_groups,
)
from agentlightning.types import CallChoice, CallRecord, VersionSpan


def call(*versions, trained=True, outcome="ok"):
    spans = [VersionSpan(start=2 * i, length=2, version=v) for i, v in enumerate(versions)]
    choice = CallChoice(token_ids=[1] * (2 * len(versions)), versions=spans)
    return CallRecord(
        call_id="c",
        rollout_id="r",
        attempt_id="a",
        choices=[choice],
        trained=trained,
        outcome=outcome,
        start_time=0.0,
        end_time=1.0,
    )


def outcome(group, *calls, reward=1.0):
    return RolloutOutcome(
        rollout_id=f"{group}-{id(calls)}",
        group_id=group,
        task=None,
        reward=reward,
        outcome="ok",
        error=None,
        calls=calls,
        span_count=1,
    )


@given(total=st.integers(1, 9), bound=st.integers(0, 4), data=st.data())
def test_a_step_is_open_once_all_but_the_bound_are_done(total, bound, data):
    """Step s may be sampled exactly when at least s - bound steps are done, and s is to come."""
    done = data.draw(st.integers(0, total))
    assert list(open_steps(done=done, total=total, bound=bound)) == [
        step for step in range(total) if done <= step and done >= step - bound
    ]


@pytest.mark.parametrize(
    ("wanted", "oversample", "started"), [(4, 1.0, 4), (4, 1.2, 5), (10, 1.1, 11), (1, 1.01, 2)]
)
def test_oversampling_rounds_up(wanted, oversample, started):
    """A part of a group is a whole one; rounding of floats adds none."""
    assert groups_to_start(wanted, oversample) == started


def test_the_oldest_trained_token_decides():
    """Versions of one answer differ; what is not trained or unknown does not count."""
    old = [call(5, 3, 4), call(1, trained=False), call(2, outcome="error"), call(-1)]
    assert oldest_version([outcome("g", *old), outcome("g", call(4))]) == 3
    assert oldest_version([outcome("g", call())]) is None


def test_groups_that_are_too_old_go_whole():
    """One old token takes its whole group out; the others stay in their order."""
    mixed = [outcome("x", call(6)), outcome("old", call(7)), outcome("old", call(7, 4))]
    rest = [outcome("y", call(5, 6)), outcome("x", call(7)), outcome("none")]
    found = admit([*mixed, *rest], version=7, bound=2)
    assert found.stale_groups == ("old",)
    assert found.outcomes == (mixed[0], *rest)
    assert admit(mixed, version=7, bound=3).stale_groups == ()


def test_only_groups_whose_rewards_differ_carry_a_signal():
    """Equal rewards teach nothing, nor do rewards that nobody gave."""
    rewards = {"same": (1.0, 1.0), "mixed": (0.0, 1.0), "lone": (1.0, None), "none": (None, None)}
    outcomes = [outcome(name, reward=reward) for name, pair in rewards.items() for reward in pair]
    assert signal_groups(outcomes) == 1
