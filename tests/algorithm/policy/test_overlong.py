"""Answers at their length limit: what they cost, and that they need not be trained."""

from dataclasses import replace

import pytest

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.algorithm.policy.overlong import cut_answers, length_limit, overlong_penalty
from agentlightning.types import CallChoice
from tests.support.spans import make_call


def answer(name, size, *, finish="stop", **request):
    ids = list(range(20, 20 + size))
    choice = CallChoice(token_ids=ids, logprobs=[-1.0] * size, finish_reason=finish)
    return make_call(name, choices=[choice], request=request)


def outcome(name, reward, *calls, kind="ok"):
    return RolloutOutcome(
        rollout_id=name, group_id="g", task={}, reward=reward, outcome=kind, error=None,
        calls=calls, span_count=len(calls),
    )  # fmt: skip


def penalty(rollout, **changes):
    given = {"max_tokens": 20, "buffer": 0.2, "factor": 1.0} | changes
    return overlong_penalty(rollout, **given)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 0.0), (16, 0.0), (17, -0.25), (18, -0.5), (20, -1.0)]
)
def test_the_penalty_rises_over_the_buffer(size, expected):
    """Nothing up to the limit less its buffer, then linearly to the whole factor at the limit."""
    rollout = outcome("a", 1.0, answer("c", size))
    assert penalty(rollout) == pytest.approx(expected)
    assert penalty(rollout, factor=3.0) == pytest.approx(3 * expected)


def test_the_worst_answer_counts_once():
    """Two long answers cost what the longer one costs; a judge's answer costs nothing."""
    judge = answer("j", 20).model_copy(update={"trained": False})
    assert penalty(outcome("a", 1.0, answer("c", 17), answer("d", 18), judge)) == -0.5


def test_the_clients_own_limit_is_the_limit():
    """A call that asked for less has its buffer at its own end; an overflow pays everything."""
    assert length_limit(answer("c", 1, max_completion_tokens=10), 20) == 10
    assert length_limit(answer("c", 1), 20) == 20
    assert penalty(outcome("a", 1.0, answer("c", 9, max_tokens=10))) == pytest.approx(-0.5)
    assert penalty(outcome("a", 0.0, kind="overflow")) == -1.0


def test_what_was_cut_is_counted():
    """Only answers that the length limit ended."""
    assert cut_answers((answer("c", 2, finish="length"), answer("d", 2))) == 1


def rewards_after(config, *outcomes):
    batch, _ = batch_from_outcomes(outcomes, config, seed="s")
    return {row.rollout_id: float(row.adv[row.mask][0]) for row in batch}


def test_the_penalty_separates_equal_rewards():
    """With `overlong="penalty"` the shorter of two right answers is the better one."""
    config = GRPOConfig(model="m", max_tokens=20, overlong="penalty")
    short, long = outcome("a", 1.0, answer("c", 4)), outcome("b", 1.0, answer("d", 20))
    assert rewards_after(config, short, long) == {"a": 0.5, "b": -0.5}
    assert rewards_after(replace(config, overlong="keep"), short, long) == {}


def test_masked_answers_count_but_are_not_trained():
    """With `overlong="mask"` cut answers and overflowed rollouts stay in the group's mean only."""
    config = GRPOConfig(model="m", overlong="mask")
    cut = outcome("b", 0.0, answer("d", 4, finish="length"))
    over = outcome("c", 0.0, answer("e", 4), kind="overflow")
    right = outcome("a", 1.0, answer("c", 4))
    found = rewards_after(config, right, cut, over)
    assert found == pytest.approx({"a": 2 / 3})
    assert set(rewards_after(replace(config, overlong="keep"), right, cut, over)) == set("abc")
