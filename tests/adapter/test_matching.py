"""Rewards find the calls that earned them."""

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.matching import Moment, match_rewards


def calls(*times: float) -> list[Moment]:
    return [Moment(f"c{time:g}", time) for time in times]


def rewards(*pairs: tuple[float, float]) -> list[Moment]:
    return [Moment(f"r{time:g}", time, value) for time, value in pairs]


def test_each_reward_takes_the_latest_call_before_it():
    """With a reward after each call, each call has its own."""
    moments = calls(1, 3) + rewards((2, 0.1), (4, 0.2))
    assert match_rewards(moments) == {"c1": 0.1, "c3": 0.2}


def test_rewards_in_a_row_flow_backwards():
    """Two rewards after two calls go to the later call, then to the earlier."""
    assert match_rewards(calls(1, 2) + rewards((3, 0.1), (4, 0.2))) == {"c2": 0.1, "c1": 0.2}


def test_the_last_word_counts_when_every_call_has_a_reward():
    """A returned reward replaces the one emitted before for the same call."""
    assert match_rewards(calls(1) + rewards((2, 1.0), (3, 0.25))) == {"c1": 0.25}


def test_a_reward_before_every_call_is_nobodys():
    """A reward cannot be earned by a call that had not ended."""
    assert match_rewards(calls(2) + rewards((1, 1.0))) == {}
    assert match_rewards(calls(2) + rewards((2, 1.0))) == {"c2": 1.0}


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.floats(-1, 1)), max_size=30))
def test_no_reward_is_invented_or_given_to_the_future(drawn):
    """Every call's reward was given, at a time when the call had ended."""
    moments = [Moment(str(i), float(t), r) for i, (t, r) in enumerate(drawn)]
    matched = match_rewards(moments)
    ended = {m.id: m.time for m in moments if m.reward is None}
    assert matched.keys() <= ended.keys()
    for call_id, value in matched.items():
        times = [m.time for m in moments if m.reward == value]
        assert max(times) >= ended[call_id]
    given_after_a_call = [
        m for m in moments if m.reward is not None and any(t <= m.time for t in ended.values())
    ]
    assert len(matched) <= len(given_after_a_call)
    assert bool(matched) == bool(given_after_a_call)
