"""When workers are started again."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.execution.restart import CrashCount, RestartPolicy


@given(st.integers(0, 20), st.floats(0, 59))
def test_the_budget_is_spent_crash_by_crash(budget, lived):
    """A worker that dies young is started again exactly `crash_budget` times."""
    count = CrashCount(RestartPolicy(crash_budget=budget))
    delays = [count.crashed(lived) for _ in range(budget + 1)]
    assert delays[-1] is None
    assert None not in delays[:-1]


@given(st.lists(st.floats(0, 59), min_size=2, max_size=15))
def test_delays_grow_up_to_a_bound(lives):
    """Each delay of a row is twice the one before, up to the longest."""
    policy = RestartPolicy(crash_budget=100)
    count = CrashCount(policy)
    delays = [count.crashed(lived) for lived in lives]
    assert delays[0] == policy.first_delay_seconds
    for before, after in itertools.pairwise(delays):
        assert after == min(2 * before, policy.longest_delay_seconds)


def test_a_healthy_life_ends_the_row():
    """After a long life the count begins again."""
    count = CrashCount(RestartPolicy(crash_budget=1))
    assert count.crashed(1.0) == 0.1
    assert count.crashed(61.0) == 0.1
    assert count.crashed(1.0) is None
