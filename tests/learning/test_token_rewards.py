"""Rewards on tokens: at the end of rows and of calls, however calls merged into rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.learning.credit import returns_to_go
from agentlightning.learning.token_rewards import token_rewards
from tests.learning.test_credit import call, one_row, rollout


def test_a_merged_rollout_is_one_episode():
    """Each call's reward is at its own last token, the rollout's at the last of all."""
    one = rollout("x", 8.0, call("a", 0, reward=1.0), call("b", 1), call("c", 2, reward=3.0))
    (reward,) = token_rewards(one)
    assert reward.tolist() == [0, 0, 1.0, 0, 0, 0, 0, 0, 11.0]


def test_each_row_ends_with_the_whole_reward():
    """Forks do not share the rollout's reward; a later row's own rewards reach what led to them."""
    first, second = call("a", 0, reward=1.0), call("b", 1, reward=2.0)
    one = rollout("x", 8.0, first, second, rows=[one_row([first]), one_row([second])])
    assert [stream.tolist() for stream in token_rewards(one)] == [[0, 0, 11.0], [0, 0, 10.0]]


def test_parallel_calls_do_not_earn_each_others_rewards():
    """A sub-agent's reward reaches the call that started it, not the one beside it."""
    main, left, right = call("m", 0), call("l", 1, role="l", reward=1.0), call("r", 1, role="r")
    rows = [one_row([each]) for each in (main, left, right)]
    found = token_rewards(rollout("x", 0.0, main, left, right, rows=rows))
    assert [stream.sum() for stream in found] == [1.0, 1.0, 0.0]


def test_what_nobody_is_known_to_have_earned_is_at_the_end():
    """Without any account of calls the rollout's reward is all there is."""
    one = rollout("x", 2.0, rows=[one_row([call("a"), call("b", 1)])])
    (reward,) = token_rewards(one)
    assert reward.tolist() == [0, 0, 0, 0, 0, 2.0]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(-3, 3)), max_size=7),
    st.integers(0, 100),
)
def test_what_follows_a_call_does_not_depend_on_rows(given_calls, seed):
    """From a call's first token on, its row holds exactly the call's undiscounted return."""
    calls = [
        call(str(n), start, length=float(size), reward=float(value))
        for n, (start, size, value) in enumerate(sorted(given_calls))
    ]
    rng, chains = np.random.default_rng(seed), []
    for each in calls:
        free = [chain for chain in chains if chain[-1].ended <= each.started]
        if free and rng.random() < 0.7:
            free[rng.integers(len(free))].append(each)
        else:
            chains.append([each])
    one = rollout("x", 5.0, *calls, rows=[one_row(chain) for chain in chains])
    want = dict(zip([c.call_id for c in calls], returns_to_go(calls, 5.0), strict=True))
    for row, reward in zip(one.rows, token_rewards(one), strict=True):
        assert not reward[~row.mask].any()
        for span in row.spans:
            assert reward[span.start :].sum() == pytest.approx(want[span.call_id])
