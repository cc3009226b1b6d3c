"""What one ended rollout brought, read back from a real store after a real runner."""

import asyncio

import pytest

import agentlightning as agl
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.outcome import RolloutOutcome, fetch_outcome
from agentlightning.types import CallChoice, EnqueueRolloutRequest, RolloutConfig
from tests.algorithm.working import working
from tests.support.spans import make_call, make_span

CONFIG = GRPOConfig(model="m", failure_reward=-1.0)
EXCLUDING = GRPOConfig(model="m", failure_policy="exclude")


class Moody(agl.LitAgent):
    """Does what the task says."""

    async def rollout_async(self, task, resources, rollout):
        if task == "raise":
            raise KeyError("gone")
        if task == "hang":
            await asyncio.sleep(60)
        return "no number" if task == "nonsense" else 0.75


@agl.rollout
async def needy(task, llm):
    """Need a resource that nobody published."""
    return 1.0


async def run_one(store, task, agent=None, **config):
    """Run one task to its end and return the rollout."""
    rollout = await store.enqueue_rollout(task, config=RolloutConfig(**config))
    async with working(store, agent or Moody()):
        (ended,) = await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=20)
    return ended


async def read(store, rollout, config=CONFIG):
    return await fetch_outcome(store, rollout, group_id="g", config=config)


async def test_a_finished_rollout_has_its_own_reward(store):
    """Success: the agent's number, whatever the failure policy."""
    rollout = await run_one(store, "fine")
    for config in (CONFIG, EXCLUDING):
        outcome = await read(store, rollout, config)
        assert (outcome.outcome, outcome.reward, outcome.error) == ("ok", 0.75, None)
    assert (outcome.rollout_id, outcome.group_id) == (rollout.rollout_id, "g")
    assert outcome.task == "fine"
    assert outcome.span_count == 1


@pytest.mark.parametrize(
    ("task", "timeout", "kind", "error"),
    [
        ("raise", None, "agent_error", "KeyError: 'gone'"),
        ("hang", 0.2, "timeout", "AgentTimeoutError: "),
        ("nonsense", None, "reward_error", "RewardError: "),
    ],
)
async def test_the_agents_own_failures_are_experience(store, task, timeout, kind, error):
    """Failures of the agent get the failure reward, or none where the policy excludes them."""
    rollout = await run_one(store, task, timeout_seconds=timeout)
    outcome = await read(store, rollout)
    assert (outcome.outcome, outcome.reward) == (kind, -1.0)
    assert outcome.error is not None
    assert outcome.error.startswith(error)
    assert (await read(store, rollout, EXCLUDING)).reward is None


async def test_a_timeout_that_only_the_store_saw_counts_too(store):
    """The runner is gone and wrote nothing; the attempt's status says enough."""
    await store.enqueue_rollout("x")
    claimed = await store.dequeue_rollout()
    await store.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status="timeout")
    outcome = await read(store, await store.get_rollout_by_id(claimed.rollout_id))
    assert (outcome.outcome, outcome.reward, outcome.error) == ("timeout", -1.0, None)


async def test_failures_around_the_agent_never_count(store):
    """A missing resource and a lost runner are nobody's experience: no reward at all."""
    broken = await read(store, await run_one(store, "x", agent=needy))
    assert (broken.outcome, broken.reward) == ("harness_error", None)
    await store.enqueue_rollout("x")
    claimed = await store.dequeue_rollout()
    await store.update_attempt(
        claimed.rollout_id, claimed.attempt.attempt_id, status="unresponsive"
    )
    lost = await read(store, await store.get_rollout_by_id(claimed.rollout_id))
    assert (lost.outcome, lost.reward) == ("unresponsive", None)


async def test_a_cancelled_rollout_never_counts(store):
    """Cancelled before it began, or while its agent was failing: no reward."""
    waiting = await store.enqueue_rollout("x")
    await store.update_rollout(waiting.rollout_id, status="cancelled")
    outcome = await read(store, await store.get_rollout_by_id(waiting.rollout_id))
    assert (outcome.outcome, outcome.reward, outcome.span_count) == ("cancelled", None, 0)
    (running,) = await store.enqueue_many_rollouts([EnqueueRolloutRequest(input="x")])
    claimed = await store.dequeue_rollout()
    await store.update_rollout(running.rollout_id, status="cancelled")
    await store.update_attempt(
        running.rollout_id,
        claimed.attempt.attempt_id,
        status="failed",
        metadata={"outcome": "agent_error"},
    )
    late = await read(store, await store.get_rollout_by_id(running.rollout_id))
    assert (late.outcome, late.reward) == ("cancelled", None)


async def test_only_the_latest_attempt_is_read(store):
    """What an earlier attempt of the rollout emitted is not its result."""
    await store.enqueue_rollout("x", config=RolloutConfig(max_attempts=2))
    first = await store.dequeue_rollout()
    call = make_call("early", rollout_id=first.rollout_id, attempt_id=first.attempt.attempt_id)
    await store.add_span(call.to_span())
    await store.update_rollout(first.rollout_id, status="requeuing")
    async with working(store, Moody()):
        (ended,) = await store.wait_for_rollouts(rollout_ids=[first.rollout_id], timeout=20)
    outcome = await read(store, ended)
    assert (outcome.reward, outcome.calls) == (0.75, ())


async def test_what_comes_late_does_not_count(store):
    """A reward or a call that arrives after the attempt ended changes nothing of it."""
    ended = await run_one(store, "x")
    before = await read(store, ended)
    (given,) = await store.query_spans(ended.rollout_id)
    late = given.model_copy(update={"span_id": "b" * 16, "sequence_id": 0})
    late.attributes = {**given.attributes, "agentlightning.reward.0.value": 9.0}
    ids = {"rollout_id": given.rollout_id, "attempt_id": given.attempt_id}
    await store.add_many_spans([late, make_call("late", **ids).to_span()])
    assert len(await store.query_spans(ended.rollout_id)) == 3
    assert await read(store, ended) == before
    assert (before.reward, before.calls) == (0.75, ())
    assert before.diagnosis is not None
    assert [lack.value for lack in before.diagnosis.lacks] == ["no_calls"]


async def test_adapters_know_only_roles_that_the_gateway_was_told(store):
    """What the engine could not know when it sampled decides nothing about its adapters."""
    await store.enqueue_rollout("x")
    claimed = await store.dequeue_rollout()
    ids = {"rollout_id": claimed.rollout_id, "attempt_id": claimed.attempt.attempt_id}
    agent = make_span("planning", agent__name="planner").model_copy(update=ids)
    call = make_call("a", parent_span_id="planning", **ids)
    await store.add_many_spans([agent, call.to_span()])
    await store.update_attempt(ids["rollout_id"], ids["attempt_id"], status="succeeded")
    rollout = await store.get_rollout_by_id(claimed.rollout_id)
    several = GRPOConfig(model="m", adapters={"plan": "planner", "code": "coder"})
    assert [each.role for each in (await read(store, rollout)).calls] == ["planner"]
    assert [each.role for each in (await read(store, rollout, several)).calls] == [None]


async def test_calls_come_in_their_order(store):
    """The gateway's records are found among the spans, the earliest first."""
    await store.enqueue_rollout("x")
    claimed = await store.dequeue_rollout()
    ids = {"rollout_id": claimed.rollout_id, "attempt_id": claimed.attempt.attempt_id}
    for name, start in (("b", 2.0), ("a", 1.0)):
        await store.add_span(make_call(name, start=start, end=start, **ids).to_span())
    await store.update_attempt(
        ids["rollout_id"], ids["attempt_id"], status="succeeded", metadata={"outcome": "ok"}
    )
    outcome = await read(store, await store.get_rollout_by_id(claimed.rollout_id))
    assert [call.call_id for call in outcome.calls] == ["a", "b"]
    assert outcome.reward is None
    assert outcome.has_tokens
    assert outcome.answer == "answer"


@pytest.mark.parametrize(
    "changes",
    [{"trained": False}, {"prompt_token_ids": []}, {"choices": [CallChoice(message=None)]}],
)
def test_calls_that_cannot_be_trained_on(changes):
    """A judge's call, or one without ids, gives no tokens; one good call is enough."""
    bad, good = make_call("bad", **changes), make_call("good")
    fields = {"rollout_id": "r", "group_id": "g", "task": 1, "reward": 1.0, "outcome": "ok"}
    fields |= {"error": "broken", "span_count": 1}
    assert not RolloutOutcome(**fields, calls=(bad,)).has_tokens
    assert RolloutOutcome(**fields, calls=(bad, good)).has_tokens


def test_the_answer_is_the_last_text_or_the_error():
    """A person sees what the model said last; tool calls say nothing; else why it failed."""
    said = CallChoice(message={"role": "assistant", "content": "first"})
    silent = CallChoice(message={"role": "assistant", "content": None})
    calls = (make_call("a", choices=[said]), make_call("b", choices=[silent]))
    fields = {"rollout_id": "r", "group_id": "g", "task": 1, "reward": 1.0, "outcome": "ok"}
    fields |= {"error": "broken", "span_count": 1}
    assert RolloutOutcome(**fields, calls=calls).answer == "first"
    assert RolloutOutcome(**fields, calls=calls[1:]).answer == "broken"
