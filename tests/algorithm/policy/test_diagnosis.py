"""Why a batch cannot teach anything."""

import pytest

from agentlightning.algorithm.policy.diagnosis import check_batch, mixed_share, signal_warning
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.errors import EmptyBatchError
from agentlightning.types import CallChoice, CallRecord


def call(**changes):
    fields = {
        "call_id": "ca-1",
        "rollout_id": "r",
        "attempt_id": "a",
        "start_time": 0.0,
        "end_time": 1.0,
        "prompt_token_ids": [1],
        "choices": [CallChoice(token_ids=[2])],
    }
    return CallRecord(**(fields | changes))


def outcome(reward, *, group="g", kind="ok", calls=None, error=None):
    return RolloutOutcome(
        rollout_id="r",
        group_id=group,
        task={},
        reward=reward,
        outcome=kind,
        error=error,
        calls=tuple([call()] if calls is None else calls),
        span_count=3,
    )


def test_a_good_batch_passes():
    """Scored rollouts with tokens are fine, a few bad ones included."""
    check_batch([outcome(1.0), outcome(0.0), outcome(None, calls=[])], max_empty_share=0.5)


def test_only_failures_show_the_table():
    """When everything fails, the classes of failure are counted with an example each."""
    batch = [outcome(0.0, kind="agent_error", error="KeyError: x") for _ in range(3)]
    with pytest.raises(EmptyBatchError, match=r"3 x agent_error, for example KeyError: x"):
        check_batch(batch, max_empty_share=0.5)


def test_missing_rewards_are_named():
    """When nothing is scored, the message says how to score."""
    with pytest.raises(EmptyBatchError, match="emit_reward"):
        check_batch([outcome(None), outcome(None)], max_empty_share=0.5)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([], "3 spans seen, none of them a call"),
        ([call(prompt_token_ids=[])], "without token ids"),
        ([call(trained=False)], "not trained"),
        ([call(outcome="error", choices=[], error="upstream 500")], "upstream 500"),
    ],
)
def test_empty_rollouts_are_explained(calls, reason):
    """A rollout without trainable tokens says what it has instead."""
    with pytest.raises(EmptyBatchError, match=reason):
        check_batch([outcome(1.0, calls=calls)] * 2, max_empty_share=0.5)


def test_the_share_of_mixed_groups():
    """A group counts as mixed when its scored rewards differ."""
    batch = [
        outcome(1.0, group="a"),
        outcome(0.0, group="a"),
        outcome(1.0, group="b"),
        outcome(1.0, group="b"),
        outcome(None, group="c"),
    ]
    assert mixed_share(batch) == pytest.approx(1 / 3)


def test_groups_that_all_fail_are_warned_about():
    """All rewards equal and low: the warning gives the diagnosis and the remedies."""
    batch = [outcome(0.0, group=g) for g in "aabbcc"]
    warning = signal_warning(batch, step=1)
    assert warning is not None
    assert "0 of 3 groups" in warning
    assert "easier" in warning


def test_the_end_of_learning_is_no_warning():
    """Groups that succeed as a whole after learning are what one hopes for."""
    assert signal_warning([outcome(1.0, group=g) for g in "aabbcc"], step=9) is None
    mixed = [outcome(1.0, group=g) for g in "aabbccdd"] + [outcome(0.0, group="d")]
    assert signal_warning(mixed, step=9) is None


def test_a_healthy_batch_is_no_warning():
    """A third of mixed groups is enough."""
    batch = [outcome(r, group=g) for g, r in [("a", 1.0), ("a", 0.0), ("b", 0.0), ("b", 0.0)]]
    assert signal_warning(batch, step=1) is None


def told(**changes):
    metrics = {"n_trained_tokens": 0, "n_wasted_tokens": 96, "n_groups": 3, "n_zero_adv_groups": 3}
    return {f"training/{name}": float(value) for name, value in {**metrics, **changes}.items()}


@pytest.mark.parametrize(
    ("rewards", "changes", "advice"),
    [
        ([1.0, 1.0], {}, "Every rollout got 1.00"),
        ([1.0, 0.0], {}, "not within any"),
        ([1.0, 0.0], {"n_zero_adv_groups": 1}, "masked or belongs to untrained roles"),
    ],
)
def test_a_step_without_signal_says_what_was_wasted(rewards, changes, advice):
    """Also at the end of learning: nothing was trained, so many tokens for nothing, and why."""
    batch = [outcome(r, group=g) for g, r in zip("ab", rewards, strict=True) for _ in range(2)]
    warning = signal_warning(batch, step=9, metrics=told(**changes))
    assert warning is not None
    assert warning.startswith("Step 9: nothing was learnt, none of 3 groups carries a signal")
    assert "96 sampled tokens were wasted" in warning
    assert advice in warning


@pytest.mark.parametrize(
    ("earlier", "reward", "warns"),
    [((0.0, 1.0), 1.0, False), ((1.0, 1.0), 1.0, True), ((0.0, 1.0), 0.5, True), ((), 1.0, True)],
)
def test_a_fit_that_has_learnt_all_is_not_warned(earlier, reward, warns):
    """Where all rollouts have the best reward so far, and there was less before."""
    batch = [outcome(reward, group=g) for g in "aabb"]
    found = signal_warning(batch, step=9, metrics=told(), earlier=earlier)
    assert (found is not None) == warns


def test_what_the_learner_trained_counts_more_than_equal_rewards():
    """Rewards of single calls may teach where rollouts are equal."""
    batch = [outcome(0.0, group=g) for g in "aabbcc"]
    taught = told(n_trained_tokens=50, n_zero_adv_groups=0)
    assert signal_warning(batch, step=1) is not None
    assert signal_warning(batch, step=1, metrics=taught) is None
    little = told(n_trained_tokens=50, n_zero_adv_groups=3)
    assert "0 of 3 groups" in signal_warning(batch, step=1, metrics=little)
