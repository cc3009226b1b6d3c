"""Pairs and labels from the rewards of groups."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ConfigurationError
from agentlightning.learning.pairs import labels, pairs

NAN = float("nan")
ANSWERS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN]), st.sampled_from("ab")), max_size=12
)


@given(ANSWERS, st.sampled_from([0.0, 0.3, 0.6]))
def test_pairs_are_within_groups_and_beyond_the_margin(answers, margin):
    """Every pair of a group that is far enough apart is there once, and no other."""
    rewards, groups = [a for a, _ in answers], [g for _, g in answers]
    found = pairs(rewards, groups, choice="all", min_margin=margin)
    wanted = {
        (i, j)
        for i, better in enumerate(rewards)
        for j, worse in enumerate(rewards)
        if groups[i] == groups[j] and better > worse and better - worse >= margin
    }
    assert (set(found), len(found)) == (wanted, len(wanted))


def test_best_and_worst_are_one_pair_of_each_group():
    """The first of equals stands for them; groups of equal rewards and single answers give none."""
    rewards = [0.5, 1.0, 0.0, 1.0, NAN, 2.0, 2.0, 3.0]
    groups = ["a", "a", "a", "a", "a", "b", "b", "c"]
    assert pairs(rewards, groups) == [(1, 2)]
    assert pairs(rewards, groups, min_margin=1.5) == []


def test_unknown_choices_are_named():
    """The message says what there is."""
    with pytest.raises(ConfigurationError, match="best_worst, all"):
        pairs([], [], choice="nonsense")


def test_labels_compare_with_a_threshold_or_the_group():
    """A threshold counts itself as good; without one, the mean is neither."""
    rewards, groups = [0.0, 1.0, 0.5, 3.0, 3.0, NAN], ["a", "a", "a", "b", "b", "b"]
    assert labels(rewards, groups) == {0: False, 1: True}
    with_threshold = labels(rewards, groups, threshold=0.5)
    assert with_threshold == {0: False, 1: True, 2: True, 3: True, 4: True}
