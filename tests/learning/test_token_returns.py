"""Whitened returns of tokens: the published values, discounts, and penalties."""

from dataclasses import replace

import numpy as np
import pytest

from agentlightning.errors import TrainingError
from agentlightning.learning.token_returns import whitened_returns
from tests.learning.tiny import batch_of, row

REWARDS = [1, 0, 0, 1, 0.5, 0.25, 0.75, 0.5]
LENGTHS = [2, 3, 3, 1, 3, 2, 1, 3]
WHITE = [1.6353, -1.1029, -1.1029, 1.6353, 0.2662, -0.4183, 0.9508, 0.2662]


def rows(rewards=REWARDS, lengths=LENGTHS):
    """Rows of two tokens of context and then so many trained ones."""
    return batch_of(
        [
            row(range(n + 2), range(2, n + 2), adv=reward)
            for reward, n in zip(rewards, lengths, strict=True)
        ]
    )


def test_golden_values():
    """At discount 1 every token of a rollout has its reward, whitened over all tokens."""
    found = whitened_returns(rows())
    for one, expected in zip(found, WHITE, strict=True):
        assert one.adv[one.mask] == pytest.approx([expected] * one.n_trained, abs=6e-5)
        assert (one.adv[~one.mask] == 0).all()


def test_a_discount_counts_trained_tokens_only():
    """Earlier tokens get less of a reward at the end; observations in between cost nothing."""
    one = row(range(7), [1, 2, 5, 6], adv=8.0)
    found = whitened_returns(batch_of([one]), discount=0.5)
    want = np.array([1.0, 2.0, 4.0, 8.0])
    want = (want - want.mean()) / want.std(ddof=1)
    assert found.rows[0].adv[one.mask] == pytest.approx(want, rel=1e-5)


def test_penalties_reach_the_tokens_before_them():
    """What a token pays lowers its own return and those of earlier tokens of its row."""
    one, other = row(range(4), [1, 2, 3], adv=1.0), row(range(3), [1, 2], adv=0.0)
    paid = [np.array([9, 0, 0.5, 0.25], dtype=np.float32), np.zeros(3, dtype=np.float32)]
    found = whitened_returns(batch_of([one, other]), penalties=paid)
    want = np.array([0.25, 0.25, 0.75, 0.0, 0.0])
    want = (want - want.mean()) / want.std(ddof=1)
    got = np.concatenate([each.adv[each.mask] for each in found])
    assert got == pytest.approx(want, rel=1e-5)


def test_a_constant_penalty_free_batch_does_not_see_a_shift():
    """Whitening removes a constant that is added to all rewards."""
    moved = batch_of([replace(one, adv=one.adv + 5 * one.mask) for one in rows()])
    for one, other in zip(whitened_returns(rows()), whitened_returns(moved), strict=True):
        assert one.adv == pytest.approx(other.adv, abs=1e-5)


def test_a_penalty_that_is_not_finite_is_refused():
    """The error names the rollout."""
    one = row(range(3), [1, 2], rollout="ro-7")
    with pytest.raises(TrainingError, match="ro-7"):
        whitened_returns(batch_of([one]), penalties=[np.array([0, np.nan, 0], dtype=np.float32)])


def test_nothing_trained_is_nothing_done():
    """A batch without a trained token comes back as it is."""
    empty = batch_of([])
    assert whitened_returns(empty) is empty
