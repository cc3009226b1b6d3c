"""Advantages: the published values, and the rules that must hold for any rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import ComponentNotFoundError, TrainingError
from agentlightning.learning.advantages import (
    AdvantageOptions,
    Scores,
    advantage_names,
    estimate_advantages,
    normalised_sum,
)

REWARDS = [1, 0, 0, 1, 0.5, 0.25, 0.75, 0.5]
GROUPS = list("aaaabbbb")
LENGTHS = [2, 3, 3, 1, 3, 2, 1, 3]
WHITE = [1.6353, -1.1029, -1.1029, 1.6353, 0.2662, -0.4183, 0.9508, 0.2662]


def values(name, rewards=REWARDS, groups=GROUPS, lengths=LENGTHS, **options):
    scores = Scores.of(rewards, groups, lengths=lengths)
    return estimate_advantages(name, scores, AdvantageOptions(**options)).value


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("group", {"scale": "group"}, [0.866, -0.866, -0.866, 0.866, 0, -1.2247, 1.2247, 0]),
        ("group", {"scale": "none"}, [0.5, -0.5, -0.5, 0.5, 0, -0.25, 0.25, 0]),
        ("rloo", {}, [0.6667, -0.6667, -0.6667, 0.6667, 0, -0.3333, 0.3333, 0]),
        ("opo", {}, [0.6667, -0.3333, -0.3333, 0.6667, 0.0278, -0.2222, 0.2778, 0.0278]),
        ("reinforce_plus_plus", {}, WHITE),
        ("reinforce_plus_plus_baseline", {}, WHITE),
    ],
)
def test_golden_values(name, options, expected):
    """Each estimator reproduces the reference values to the digits they were printed with."""
    assert values(name, **options) == pytest.approx(expected, abs=6e-5)


UNEQUAL = [3.0, 1.0, 1.0, 3.0, 0.5, 0.25, 0.75, 0.5]
"""The first group's mean is 2, the second's 0.5."""


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("group", {"scale": "group"}, [0.866, -0.866, -0.866, 0.866, 0, -1.2247, 1.2247, 0]),
        ("group", {"scale": "none"}, [1, -1, -1, 1, 0, -0.25, 0.25, 0]),
        ("rloo", {}, [1.3333, -1.3333, -1.3333, 1.3333, 0, -0.3333, 0.3333, 0]),
        ("opo", {}, [1.3333, -0.6667, -0.6667, 1.3333, 0.0278, -0.2222, 0.2778, 0.0278]),
        (
            "reinforce_plus_plus",
            {},
            [2.0831, -0.0749, -0.0749, 2.0831, -0.6145, -0.8842, -0.3447, -0.6145],
        ),
        (
            "reinforce_plus_plus_baseline",
            {},
            [1.6598, -1.1521, -1.1521, 1.6598, 0.2538, -0.0976, 0.6053, 0.2538],
        ),
    ],
)
def test_values_with_unequal_group_means(name, options, expected):
    """Estimators that compare within the group do not see its level; plain REINFORCE++ does."""
    assert values(name, rewards=UNEQUAL, **options) == pytest.approx(expected, abs=6e-5)


def test_unequal_group_means_separate_the_two_reinforce_variants():
    """With different group means only the variant with a baseline removes the task's difficulty."""
    rewards, groups, lengths = [1.0, 0.0, 3.0, 2.0], list("aabb"), [1, 1, 1, 1]
    plain = values("reinforce_plus_plus", rewards, groups, lengths)
    based = values("reinforce_plus_plus_baseline", rewards, groups, lengths)
    assert plain == pytest.approx(np.array([-0.5, -1.5, 1.5, 0.5]) / np.std(rewards, ddof=1))
    assert based == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]) / np.sqrt(1 / 3))


def test_batch_scale_divides_by_the_deviation_of_all_rewards():
    """`scale="batch"` centres per group and scales by one deviation for the whole batch."""
    rewards = [1.0, 0.0, 3.0, 2.0]
    got = values("group", rewards, list("aabb"), [1] * 4, scale="batch", eps=0.0)
    assert got == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]) / np.std(rewards, ddof=1))


def test_the_plain_reward_is_an_estimator_without_a_baseline():
    """`reward` gives rewards as they are, and a signal where a group is of one mind."""
    assert values("reward", [2.0, 2.0, 1.0], "aab", [1, 1, 1]).tolist() == [2.0, 2.0, 1.0]


def test_dimensions_count_by_weight_and_not_by_size():
    """Each dimension is normalised in its group first; then the sum is, over the batch."""
    dimensions = [{"right": 1.0, "style": 100.0}, {"right": 0.0, "style": 300.0},
                  {"right": 0.0, "style": 7.0}, {"right": 1.0, "style": 7.0}]  # fmt: skip
    scores = Scores.of([0.0] * 4, "aabb")
    options = AdvantageOptions(eps=1e-12)
    found = normalised_sum(dimensions, {"right": 1.0, "style": 0.5}, scores, options)
    z = 2**-0.5
    summed = np.array([z - z / 2, -z + z / 2, -z, z])
    assert found.value == pytest.approx(summed / summed.std(ddof=1))
    larger = [{**each, "style": 1000 * each["style"]} for each in dimensions]
    again = normalised_sum(larger, {"right": 1.0, "style": 0.5}, scores, options)
    assert again.value == pytest.approx(found.value)


def test_missing_dimensions_and_flat_groups_have_no_part():
    """A rollout is compared in the dimensions it has; equal in all of them is no signal."""
    dimensions = [{"x": 1.0, "y": 5.0}, {"x": 0.0}, {"x": 2.0}, {"x": 2.0, "y": 1.0}, {"x": 9.0}]
    scores = Scores.of([0.0, 0.0, 0.0, 0.0, float("nan")], "aabba")
    found = normalised_sum(dimensions, {"x": 1.0, "y": 1.0}, scores)
    assert found.value == pytest.approx([2**-0.5, -(2**-0.5), 0, 0, 0], abs=1e-5)
    assert found.zero_signal.tolist() == [False, False, True, True, False]
    assert found.scored.tolist() == [True, True, True, True, False]


def test_maxrl_divides_by_the_group_mean():
    """MaxRL's advantage is larger where successes are rare."""
    got = values("maxrl", [1, 0, 0, 0, 1, 1, 1, 0], GROUPS)
    assert got == pytest.approx([3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1])
    with pytest.raises(TrainingError, match="negative"):
        values("maxrl", [-1, -2], "aa", [1, 1])


def test_unscored_rollouts_are_left_out_of_the_baseline():
    """A NaN reward changes nothing for its group and gets advantage 0."""
    scores = Scores.of([1.0, float("nan"), 0.0], "aaa")
    found = estimate_advantages("group", scores)
    assert found.value == pytest.approx([0.5, 0, -0.5])
    assert found.scored.tolist() == [True, False, True]


@pytest.mark.parametrize("name", ["group", "rloo", "opo"])
def test_a_single_member_is_compared_with_the_fallback(name):
    """A group of one uses the running baseline and is not called zero-signal."""
    scores = Scores.of([1.0, 0.25], ["a", "b"], fallback=[0.4, 0.0])
    found = estimate_advantages(name, scores)
    assert found.value == pytest.approx([0.6, 0.25])
    assert not found.zero_signal.any()


def test_zero_signal_groups_are_marked_and_give_exactly_zero():
    """Equal rewards teach nothing, also after division by a tiny deviation."""
    scores = Scores.of([0.3, 0.3 + 1e-9, 1.0, 0.0], "aabb")
    found = estimate_advantages("group", scores, AdvantageOptions(scale="group", eps=1e-12))
    assert found.zero_signal.tolist() == [True, True, False, False]
    assert found.value[:2].tolist() == [0.0, 0.0]
    plain = estimate_advantages("reinforce_plus_plus", Scores.of([1.0, 1.0, 0.0, 0.0], "aabb"))
    assert not plain.zero_signal.any()


def test_wrong_input_is_refused():
    """Unknown names, unequal lengths and infinite rewards raise with what to do."""
    with pytest.raises(ComponentNotFoundError, match="known: group"):
        values("no-such")
    with pytest.raises(TrainingError, match="one entry per rollout"):
        Scores.of([1.0], ["a", "b"])
    with pytest.raises(TrainingError, match="infinite"):
        Scores.of([float("inf")], ["a"])


batches = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-20, 20), st.integers(1, 9)), min_size=1, max_size=24
)


@given(batches, st.floats(-5, 5), st.sampled_from(["group", "rloo", "opo"]))
def test_a_constant_added_to_a_group_changes_nothing(batch, shift, name):
    """Advantages that compare within a group do not see a constant added to its rewards."""
    groups, rewards, lengths = map(list, zip(*batch, strict=True))
    sizes = [groups.count(g) for g in groups]
    moved = [r + (shift if g == 0 else 0) for r, g in zip(rewards, groups, strict=True)]
    before = values(name, rewards, groups, lengths)
    after = values(name, moved, groups, lengths)
    several = np.array(sizes) > 1
    assert after[several] == pytest.approx(before[several], abs=1e-9)


@given(batches, st.sampled_from(sorted(set(advantage_names()) - {"maxrl"})), st.randoms())
def test_order_of_rollouts_does_not_matter(batch, name, random):
    """Permuting the batch permutes the advantages."""
    order = list(range(len(batch)))
    random.shuffle(order)
    groups, rewards, lengths = map(list, zip(*batch, strict=True))
    before = values(name, rewards, groups, lengths)
    after = values(
        name, [rewards[i] for i in order], [groups[i] for i in order], [lengths[i] for i in order]
    )
    assert after == pytest.approx(before[order], abs=1e-9)
