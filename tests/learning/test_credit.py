"""Credit by call: who gets which advantage, in which share of the batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.token_row import RowSpan, TokenRow
from agentlightning.errors import ConfigurationError
from agentlightning.learning.advantages import AdvantageOptions, Scores, estimate_advantages
from agentlightning.learning.batch import BatchSpec, ScoredRollout, build_batch
from agentlightning.learning.credit import (
    CallCredit,
    CreditSpec,
    call_advantages,
    returns_to_go,
    turn_numbers,
)


def call(name, turn=0, *, role="", reward=0.0, state=None, length=1.0):
    return CallCredit(
        call_id=name,
        role=role,
        started=float(turn),
        ended=turn + length,
        reward=reward,
        state=state,
    )


def one_row(calls, tokens=2, context=1):
    """A row in which every call samples `tokens` tokens after one token of context."""
    size = len(calls) * (tokens + context)
    mask = np.zeros(size, dtype=bool)
    spans, stop = [], 0
    for each in calls:
        start, stop = stop + context, stop + context + tokens
        mask[start:stop] = True
        spans.append(
            RowSpan(
                start=start, stop=stop, call_id=each.call_id, choice=0, role=each.role, trained=True
            )
        )
    return TokenRow(
        ids=np.arange(size, dtype=np.int32),
        mask=mask,
        logp=np.where(mask, -1.0, 0.0).astype(np.float32),
        versions=np.where(mask, 3, -1).astype(np.int32),
        spans=tuple(spans),
    )


def rollout(name, reward, *calls, group="g", rows=None, **given):
    rows = [one_row(calls)] if rows is None else rows
    return ScoredRollout(
        rollout_id=name, group_id=group, rows=rows, reward=reward, calls=calls, **given
    )


def credit(rollouts, kind, *, estimator="group", options=None, **given):
    """Return the advantage of every call of the batch."""
    scores = Scores.of([r.reward for r in rollouts], [r.group_id for r in rollouts])
    overall = estimate_advantages(estimator, scores, options)
    spec = CreditSpec(kind=kind, **given)
    found = call_advantages(rollouts, overall, spec, estimator=estimator, options=options)
    return {name: value for calls in found.calls for name, value in calls.items()}


def test_a_rollouts_credit_is_that_of_the_default():
    """With no reward of their own, `span` gives calls exactly what `rollout` gives rows."""
    rollouts = [rollout("a", 1.0, call("a0"), call("a1", 1)), rollout("b", 0.0, call("b0"))]
    rollouts += [rollout("c", 1.0, call("c0"), group="h"), rollout("d", 1.0, call("d0"), group="h")]
    plain, told = build_batch(rollouts)
    by_call, report = build_batch(rollouts, BatchSpec(credit=CreditSpec(kind="span")))
    assert report == told
    for one, other in zip(plain, by_call, strict=True):
        assert one.rollout_id == other.rollout_id
        for name in ("ids", "mask", "adv", "weight", "logp_rollout", "versions"):
            assert (getattr(one, name) == getattr(other, name)).all()


def test_a_spans_reward_reaches_exactly_its_tokens():
    """The linked reward is added on the call's own tokens and nowhere else."""
    good = rollout("a", 1.0, call("a0", 0, reward=0.25), call("a1", 1))
    bad = rollout("b", 0.0, call("b0", 0), call("b1", 1, reward=-2.0))
    batch, report = build_batch([good, bad], BatchSpec(credit=CreditSpec(kind="span")))
    assert batch.rows[0].adv.tolist() == [0, 0.75, 0.75, 0, 0.5, 0.5]
    assert batch.rows[1].adv.tolist() == [0, -0.5, -0.5, 0, -2.5, -2.5]
    assert report.advantages == {"a": 0.625, "b": -1.5}


def test_a_spans_reward_is_a_signal_where_rollouts_are_equal():
    """A group of one mind is trained if a call of it was rewarded, and dropped if none was."""
    same = [rollout("a", 1.0, call("a0", reward=0.5)), rollout("b", 1.0, call("b0"))]
    flat = [rollout(n, 1.0, call(f"{n}0"), group="h") for n in "cd"]
    spec = BatchSpec(credit=CreditSpec(kind="span"))
    batch, report = build_batch(same + flat, spec)
    assert [row.rollout_id for row in batch] == ["a", "b"]
    assert (report.zero_signal, report.zero_signal_groups, report.groups) == (2, 1, 2)
    kept, _ = build_batch(
        same + flat, BatchSpec(credit=CreditSpec(kind="span"), zero_signal="keep")
    )
    assert len(kept) == 4


def test_turns_are_counted_by_role_and_parallel_calls_share_one():
    """A turn follows what had ended before it; other roles do not count."""
    calls = [
        call("p0", 0, role="planner"),
        call("s0", 1, role="searcher"),
        call("s1", 1, role="searcher"),
        call("s2", 2, role="searcher"),
        call("p1", 3, role="planner"),
    ]
    assert turn_numbers(calls) == [0, 0, 0, 1, 1]
    assert turn_numbers(calls[::-1]) == [1, 1, 0, 0, 0]
    assert turn_numbers([]) == []


def test_returns_hold_what_came_after_a_call():
    """Own and later rewards, discounted by call; not those of earlier or parallel calls."""
    calls = [
        call("a", 0, reward=1.0),
        call("b", 1, reward=10.0),
        call("c", 1, reward=100.0, role="other"),
        call("d", 2, reward=1000.0),
    ]
    got = returns_to_go(calls, 8.0, discount=0.5)
    assert got == pytest.approx([1 + 55 + 250 + 2, 10 + 500 + 4, 100 + 500 + 4, 1000 + 8])
    assert np.isnan(returns_to_go(calls, float("nan"))).all()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-3, 3)), max_size=7),
    st.floats(0.1, 1.0),
)
def test_returns_and_turns_do_not_depend_on_the_order_of_the_list(given_calls, discount):
    """Times decide, and a chain of calls has the return of the textbook."""
    calls = [
        call(str(n), start, length=float(size), reward=float(value))
        for n, (start, size, value) in enumerate(given_calls)
    ]
    by_name = dict(zip([c.call_id for c in calls], returns_to_go(calls, 1.0), strict=True))
    turned = calls[::-1]
    if len({(c.started, c.ended) for c in calls}) == len(calls):
        again = dict(zip([c.call_id for c in turned], returns_to_go(turned, 1.0), strict=True))
        assert again == pytest.approx(by_name)
        assert turn_numbers(turned) == turn_numbers(calls)[::-1]
    chain = [call(str(n), n, reward=c.reward) for n, c in enumerate(calls)]
    expected, total = [], 2.0
    for n, each in enumerate(reversed(chain)):
        total = each.reward + (2.0 if n == 0 else discount * total)
        expected.append(total)
    got = returns_to_go(chain, 2.0, discount=discount)
    assert got.tolist() == pytest.approx(expected[::-1])


def test_turns_are_compared_with_the_same_turn():
    """Each turn has a baseline of its own; a turn that one rollout alone reached has the mean."""
    first = rollout("a", 1.0, call("a0", 0, reward=2.0), call("a1", 1), call("a2", 2))
    second = rollout("b", 0.0, call("b0", 0), call("b1", 1, reward=3.0))
    got = credit([first, second], "turn")
    # Returns: a 3, 1, 1; b 3, 3. Turn 0 is equal, turn 2 is alone: compared with the mean 2.2.
    assert got == pytest.approx({"a0": 0, "a1": -1, "a2": -1.2, "b0": 0, "b1": 1})


def test_a_discount_makes_early_turns_answer_for_less():
    """With discount 0.5 and a reward at the end, the credit halves with each turn before it."""
    good = rollout("a", 1.0, call("a0", 0), call("a1", 1), call("a2", 2))
    bad = rollout("b", 0.0, call("b0", 0), call("b1", 1), call("b2", 2))
    got = credit([good, bad], "turn", discount=0.5)
    assert [got["a0"], got["a1"], got["a2"]] == pytest.approx([0.125, 0.25, 0.5])
    assert [got["b0"], got["b1"], got["b2"]] == pytest.approx([-0.125, -0.25, -0.5])


def test_roles_have_their_own_rewards_baselines_and_shares():
    """The planner's reward does not touch the coder, and a chatty role gets no larger share."""
    calls = [
        (
            call(f"{n}p", 0, role="planner"),
            call(f"{n}c", 1, role="coder"),
            call(f"{n}d", 2, role="coder"),
        )
        for n in "ab"
    ]
    first = rollout("a", 9.0, *calls[0], role_rewards={"planner": 1.0, "coder": 0.0})
    second = rollout("b", 9.0, *calls[1], role_rewards={"planner": 0.0, "coder": 4.0})
    spec = BatchSpec(credit=CreditSpec(kind="agent"))
    batch, _ = build_batch([first, second], spec)
    assert batch.rows[0].adv.tolist() == [0, 0.5, 0.5, 0, -2, -2, 0, -2, -2]
    assert batch.rows[1].adv.tolist() == [0, -0.5, -0.5, 0, 2, 2, 0, 2, 2]
    weight = batch.rows[0].weight
    assert weight.tolist() == pytest.approx([0, 1 / 8, 1 / 8, 0, 1 / 16, 1 / 16, 0, 1 / 16, 1 / 16])


def test_a_role_without_signal_leaves_the_batch_alone():
    """Equal rewards of one role drop its tokens, not those of the other in the same row."""
    calls = [(call(f"{n}p", 0, role="planner"), call(f"{n}c", 1, role="coder")) for n in "ab"]
    rollouts = [
        rollout(n, 1.0, *own, role_rewards={"planner": float(n == "a"), "coder": 1.0})
        for n, own in zip("ab", calls, strict=True)
    ]
    batch, report = build_batch(rollouts, BatchSpec(credit=CreditSpec(kind="agent")))
    assert [row.mask.tolist() for row in batch] == [[False, True, True, False, False, False]] * 2
    assert float(batch.rows[0].weight.sum()) == pytest.approx(0.5)
    assert report.zero_signal_groups == 0


def test_a_role_is_compared_where_it_spoke():
    """A rollout in which the role made no call is no part of its baseline; NaN is not scored."""
    spoke = [rollout(n, 1.0, call(f"{n}0", role="coder"), role_rewards={"coder": r})
             for n, r in (("a", 1.0), ("b", 0.0))]  # fmt: skip
    silent = rollout("c", 1.0, call("c0", role="planner"), role_rewards={"coder": 100.0})
    lost = rollout("d", float("nan"), call("d0", role="coder"), role_rewards={"coder": 100.0})
    assert credit([*spoke, silent, lost], "agent") == {"a0": 0.5, "b0": -0.5, "c0": 1.0}


def test_same_states_are_compared_with_one_another():
    """GiGPO: the rollout's advantage plus omega times that among calls that saw the same."""
    first = rollout("a", 1.0, call("a0", 0, state="s"), call("a1", 1, state="t"))
    second = rollout("b", 0.0, call("b0", 0, state="s"), call("b1", 1, state="u"))
    third = rollout("c", 0.0, call("c0", 0, state="s"), call("c1", 1, state="t", reward=0.5))
    got = credit([first, second, third], "state", discount=0.5, state_weight=2.0)
    whole = {"a": 0.5, "b": -0.5, "c": 0.0}
    step = {"a0": 0.25, "b0": -0.25, "c0": 0.0, "a1": 0.25, "c1": -0.25, "b1": 0.0}
    assert got == pytest.approx({n: whole[n[0]] + 2 * value for n, value in step.items()})
    other = [rollout("d", 5.0, call("d0", state="s"), group="h"),
             rollout("e", 5.0, call("e0", state=None), group="h")]  # fmt: skip
    assert credit([first, second, third, *other], "state", discount=0.5, state_weight=2.0) == {
        **got,
        "d0": 0.0,
        "e0": 0.0,
    }


def test_the_scale_divides_calls_as_it_divides_rollouts():
    """`scale="group"` gives turns and states unit deviation within their group."""
    rollouts = [rollout(n, r, call(f"{n}0")) for n, r in (("a", 4.0), ("b", 0.0))]
    options = AdvantageOptions(scale="group", eps=0.0)
    got = credit(rollouts, "turn", options=options)
    assert got == pytest.approx({"a0": 2**-0.5, "b0": -(2**-0.5)})


@pytest.mark.parametrize("kind", ["span", "turn", "agent", "state"])
def test_unscored_rollouts_train_nothing(kind):
    """A NaN reward leaves the rollout out of the batch and out of everybody's baseline."""
    scored = [rollout(n, r, call(f"{n}0", state="s")) for n, r in (("a", 1.0), ("b", 0.0))]
    lost = rollout("c", float("nan"), call("c0", state="s", reward=50.0))
    spec = BatchSpec(credit=CreditSpec(kind=kind))
    with_lost, report = build_batch([*scored, lost], spec)
    without, _ = build_batch(scored, spec)
    assert [row.adv.tolist() for row in with_lost] == [row.adv.tolist() for row in without]
    assert (report.unscored, report.advantages["c"]) == (1, 0.0)


@pytest.mark.parametrize("kind", ["span", "turn", "agent", "state"])
@given(shift=st.floats(-5, 5), rewards=st.lists(st.integers(-9, 9), min_size=2, max_size=5))
def test_a_constant_added_to_a_group_changes_nothing(kind, shift, rewards):
    """No kind of credit sees a constant that is added to all rewards of rollouts."""

    def advantages(extra):
        return credit(
            [
                rollout(f"r{n}", r + extra, call(f"{n}a", 0, state="s"), call(f"{n}b", 1))
                for n, r in enumerate(rewards)
            ],
            kind,
        )

    assert advantages(shift) == pytest.approx(advantages(0.0), abs=1e-9)


@pytest.mark.parametrize("kind", ["span", "turn", "agent", "state"])
@pytest.mark.parametrize("aggregate", ["rollout_mean", "token_mean", "prompt_mean", "dr_grpo"])
def test_forking_does_not_change_a_rollouts_pull(kind, aggregate):
    """Calls in one row or in a row each pull with the same weight and advantage."""
    calls = {n: (call(f"{n}a", 0, reward=1.0), call(f"{n}b", 1)) for n in "xy"}
    spec = BatchSpec(credit=CreditSpec(kind=kind), aggregate=aggregate, length=8.0)

    def pull(forked):
        rows = [one_row([each]) for each in calls["x"]] if forked else None
        rollouts = [rollout("x", 1.0, *calls["x"], rows=rows), rollout("y", 0.0, *calls["y"])]
        batch, _ = build_batch(rollouts, spec)
        return sum(float((r.weight * r.adv).sum()) for r in batch if r.rollout_id == "x")

    assert pull(forked=True) == pytest.approx(pull(forked=False))


def test_credit_by_rollout_has_no_calls():
    """Asking for calls' advantages without credit by call is an error."""
    with pytest.raises(ConfigurationError, match="rollout"):
        credit([rollout("a", 1.0, call("a0"))], "rollout")
