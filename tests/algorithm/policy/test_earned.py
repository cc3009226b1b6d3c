"""Which reward is for what: read from spans, hand-made ones and those of a real agent."""

import pytest

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes
from agentlightning.algorithm.policy.earned import Earned, find_earned
from agentlightning.algorithm.policy.outcome import fetch_outcome
from agentlightning.utils.links import make_link_attributes
from tests.algorithm.working import working
from tests.support.spans import make_call, make_reward_span, make_span


def spans_of(*calls):
    return [call.to_span() for call in calls]


def call(name, start, **given):
    return make_call(name, start=start, end=start + 0.5, **given)


def reward(span_id, value, at, *, link=None, **given):
    span = make_reward_span(span_id, value, at, **given)
    span.attributes = {**span.attributes, **make_link_attributes({"span_id": link} if link else {})}
    return span


CALLS = [call("aaaa", 0), call("bbbb", 1), call("cccc", 2)]


def test_rewards_between_calls_are_those_of_the_call_before():
    """In-between rewards belong to turns; those after the last call to the rollout."""
    spans = [*spans_of(*CALLS), reward("r1", 1.0, 0.6), reward("r2", 2.0, 0.9)]
    spans += [reward("r3", 3.0, 1.7), reward("r4", 4.0, 2.6), reward("r5", 5.0, 2.8)]
    found = find_earned(spans)
    assert found.between == {"aaaa": 3.0, "bbbb": 3.0}
    assert (found.final, found.own, found.closing) == (5.0, 5.0, 5.0)
    assert found.linked == {}


def test_linked_rewards_are_not_the_rollouts():
    """What a link gives to a call is that call's, and the rollout keeps the last other one."""
    spans = [*spans_of(*CALLS), reward("r1", 7.0, 2.6), reward("r2", -1.0, 2.9, link="bbbb")]
    found = find_earned(spans)
    assert (found.final, found.own, found.closing) == (-1.0, 7.0, 7.0)
    assert found.linked == found.by_step == {"bbbb": -1.0}
    assert find_earned(spans[:3] + spans[4:]).own is None


def test_a_link_to_a_span_around_the_call_is_a_link_to_it():
    """Also where the client did not announce the span, and only time tells."""
    around = make_span("turn-2", start=0.9, end=1.6)
    found = find_earned([*spans_of(*CALLS), around, reward("r", 2.0, 1.7, link="turn-2")])
    assert found.linked == {"bbbb": 2.0}


def test_rewards_linked_to_a_judge_are_the_rollouts():
    """A call that is not trained cannot be credited."""
    judge = call("dddd", 3, trained=False)
    found = find_earned([*spans_of(*CALLS, judge), reward("r", 2.0, 4.0, link="dddd")])
    assert (found.linked, found.own) == ({}, 2.0)


def test_dimensions_are_the_last_of_each_name():
    """Several rewards add up to one set of dimensions; weights make one number of them."""
    second = {
        "agentlightning__reward__0__name": "coder",
        "agentlightning__reward__0__value": 3.0,
    }
    spans = [*spans_of(*CALLS), reward("r1", 1.0, 2.6), make_span("r2", start=2.7, **second)]
    found = find_earned(spans)
    assert found.dimensions == {"primary": 1.0, "coder": 3.0}
    assert found.weighted({"coder": 2.0, "primary": 0.5, "unknown": 9.0}) == 6.5
    assert found.weighted({"unknown": 1.0}) is None


def test_nothing_earned_is_nothing():
    """Spans without a reward, and no spans."""
    assert find_earned(spans_of(*CALLS)) == find_earned([]) == Earned()


EARNED = Earned(
    final=9.0, own=4.0, closing=2.0, linked={"a": 1.0}, between={"a": 0.5, "b": 2.0},
    dimensions={"primary": 4.0, "style": 10.0},
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 9.0),
        ({"credit": "span"}, 5.0),
        ({"credit": "turn"}, 5.5),
        ({"credit": "state"}, 5.5),
        ({"credit": "agent"}, 4.0),
        ({"reward_weights": {"style": 0.1}}, 1.0),
        ({"reward_weights": {"style": 0.1}, "credit": "span"}, 2.0),
    ],
)
def test_the_rollouts_number_depends_on_the_credit(settings, total):
    """By default the last reward counts, as in 0.3.0; else the rollout's and its calls' together."""
    config = GRPOConfig(model="m", **settings)
    assert config.reward_of(EARNED) == pytest.approx(total)
    assert config.reward_of(Earned()) is None


class Stepwise(agl.LitAgent):
    """Three calls; the second is rewarded through a span around it, the whole at the end."""

    async def rollout_async(self, task, resources, rollout):
        attempt = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        store = self.trainer_store
        for number, name in enumerate("abc"):
            with agl.span(f"turn {number}") as turn:
                made = make_call(
                    name * 16,
                    start=agl._internal.clock.now(),
                    end=agl._internal.clock.now(),
                    parent_span_id=turn.id,
                    **attempt,
                )
                await store.add_span(made.to_span())
            if number == 1:
                agl.emit_reward(task["step"], span_id=turn.id)
        if task["raise"]:
            raise KeyError("broken")
        return task["end"]


@pytest.mark.parametrize("credit", ["rollout", "span", "turn", "state"])
async def test_a_real_agents_step_rewards_reach_their_tokens(store, credit):
    """A runner, a store, spans and links: the second call's tokens get what was given for it."""
    config = GRPOConfig(model="m", credit=credit, failure_reward=-1.0)
    agent = Stepwise()
    agent.trainer_store = store
    tasks = [
        {"step": 0.5, "end": 1.0, "raise": False},
        {"step": 0.0, "end": 0.0, "raise": False},
        {"step": 0.25, "end": 0.0, "raise": True},
    ]
    async with working(store, agent):
        made = [await store.enqueue_rollout(task) for task in tasks]
        ids = [rollout.rollout_id for rollout in made]
        await store.wait_for_rollouts(rollout_ids=ids, timeout=20)
    ended = [await store.get_rollout_by_id(name) for name in ids]
    outcomes = [await fetch_outcome(store, each, group_id="g", config=config) for each in ended]
    batch, metrics = batch_from_outcomes(outcomes, config, seed="s")
    found = {(row.rollout_id, row.call_ids[0][0]): float(row.adv[-1]) for row in batch}
    got = [[found[name, letter] for letter in "abc"] for name in ids]
    expected = {
        "rollout": [[1, 1, 1], [0, 0, 0], [-1, -1, -1]],
        "span": [[1, 1.5, 1], [0, 0, 0], [-1, -0.75, -1]],
        "turn": [[1.25, 1.25, 1], [-0.25, -0.25, 0], [-1, -1, -1]],
        # All nine calls saw the same prompt; their returns have the mean 1/6.
        "state": [[31 / 12, 31 / 12, 25 / 12], [-5 / 12] * 3, [-23 / 12, -23 / 12, -26 / 12]],
    }[credit]
    assert got == [pytest.approx(each) for each in expected]
    assert metrics["training/n_rollouts_failed"] == 1


@pytest.mark.parametrize(("policy", "failed"), [("reward", -1.0), ("exclude", None)])
async def test_failures_of_the_agent_count_as_the_policy_says(store, policy, failed):
    """A broken agent has the failure reward or is left out; a lost runner never counts."""
    config = GRPOConfig(model="m", failure_policy=policy, failure_reward=-1.0)
    agent = Stepwise()
    agent.trainer_store = store
    tasks = [{"step": 0.0, "end": end, "raise": end is None} for end in (1.0, 0.0, None)]
    async with working(store, agent):
        made = [await store.enqueue_rollout(task) for task in tasks]
        ids = [rollout.rollout_id for rollout in made]
        await store.wait_for_rollouts(rollout_ids=ids, timeout=20)
    await store.enqueue_rollout(tasks[0])
    lost = await store.dequeue_rollout()
    attempt = {"rollout_id": lost.rollout_id, "attempt_id": lost.attempt.attempt_id}
    await store.add_span(make_call("d" * 16, **attempt).to_span())
    await store.update_attempt(*attempt.values(), status="unresponsive")
    ended = [await store.get_rollout_by_id(name) for name in [*ids, lost.rollout_id]]
    outcomes = [await fetch_outcome(store, each, group_id="g", config=config) for each in ended]
    assert [each.reward for each in outcomes] == [1.0, 0.0, failed, None]
    assert all(each.has_tokens for each in outcomes)
    batch, metrics = batch_from_outcomes(outcomes, config, seed="s")
    found = {row.rollout_id: float(row.adv[-1]) for row in batch}
    expected = [1.0, 0.0, -1.0] if policy == "reward" else [0.5, -0.5]
    assert found == dict(zip(ids, expected, strict=False))
    weights = sum(float(row.weight.sum()) for row in batch)
    assert weights == pytest.approx(1.0)
    assert metrics["training/n_rollouts_failed"] == 2
