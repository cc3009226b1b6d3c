"""Rewards with links go to the calls that they name."""

import pytest

from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet
from agentlightning.adapter.targets import explicit_rewards
from agentlightning.adapter.triplet import RewardMatchPolicy
from agentlightning.utils.links import make_link_attributes
from tests.support.spans import make_call, make_llm_span, make_reward_span, make_span


def linked_reward(own_id, value, at, **links):
    span = make_reward_span(own_id, value, at)
    named = {key.replace("__", "."): target for key, target in links.items()}
    span.attributes.update(make_link_attributes(named))
    return span


def rewards_of(spans, **options):
    triplets = TracerTraceToTriplet(**options).adapt(spans)
    return {t.metadata["response_id"].removeprefix("resp-"): t.reward for t in triplets}


TWO_STEPS = [
    make_span("root", start=0, end=20),
    make_span("first", "root", start=1, end=5, agent__name="planner"),
    make_llm_span("a", "first", start=2, end=3),
    make_llm_span("b", "first", start=3.5, end=4),
    make_span("second", "root", start=6, end=9, executor__id="writer"),
    make_llm_span("c", "second", start=7, end=8),
]


@pytest.mark.parametrize("policy", RewardMatchPolicy)
def test_links_win_over_time(policy):
    """A reward given at the end, linked to an early span, is earned by that span's last call."""
    spans = [*TWO_STEPS, linked_reward("r", 0.5, 10, span_id="first")]
    assert rewards_of(spans, reward_match=policy) == {"a": None, "b": 0.5, "c": None}


def test_what_a_link_may_name():
    """Calls are named by their span, an agent, an attribute of theirs, or the answer's id."""
    spans = [
        *TWO_STEPS,
        linked_reward("r1", 0.1, 10, span_id="a"),
        linked_reward("r2", 0.2, 10, agent__name="writer"),
        linked_reward("r3", 0.3, 10, gen_ai__response__id="resp-b"),
    ]
    assert rewards_of(spans) == {"a": 0.1, "b": 0.3, "c": 0.2}


def test_the_call_that_had_ended_earns_it():
    """A reward given inside its span goes to the latest call before it; a later one replaces."""
    spans = [*TWO_STEPS, linked_reward("r", 0.5, 3.2, span_id="first")]
    assert rewards_of(spans) == {"a": 0.5, "b": None, "c": None}
    spans.append(linked_reward("r2", 0.7, 3.3, span_id="first"))
    assert rewards_of(spans) == {"a": 0.7, "b": None, "c": None}


def test_rewards_without_target_are_matched_by_time():
    """Links to what is not there, or holds no call, count for nothing; all links must match."""
    spans = [
        *TWO_STEPS,
        linked_reward("r1", 0.1, 10, span_id="nobody"),
        linked_reward("r2", 0.2, 11, span_id="first", agent__name="writer"),
    ]
    assert rewards_of(spans) == {"a": None, "b": 0.2, "c": 0.1}


def test_one_reward_for_the_step_and_one_for_the_rollout():
    """The final reward goes to the last call when that has not been rewarded for itself."""
    spans = [
        *TWO_STEPS,
        linked_reward("r1", 0.1, 5, span_id="first"),
        make_reward_span("r2", 1.0, 10),
    ]
    assert rewards_of(spans) == {"a": None, "b": 0.1, "c": 1.0}


def test_a_clients_span_stands_for_the_gateways():
    """A link to the client's span of a call reaches the gateway's record of the same answer."""
    client = make_llm_span("mine", "step", gen_ai__response__id="resp-ca-1")
    spans = [
        make_span("step"),
        client,
        make_call("ca-1").to_span(),
        make_call("ca-2", start=2, end=3).to_span(),
        linked_reward("r", 0.5, 9, span_id="step"),
    ]
    assert rewards_of(spans) == {"ca-1": 0.5, "ca-2": None}
    numbered = [s.model_copy(update={"sequence_id": n}) for n, s in enumerate(spans)]
    assert [t.reward for t in LlmProxyTraceToTriplet().adapt(numbered)] == [0.5, None]


def test_nothing_to_give():
    """Without linked rewards or without calls nothing is matched."""
    assert explicit_rewards(TWO_STEPS, {"a": 3.0}).by_call == {}
    assert explicit_rewards([linked_reward("r", 1.0, 1, span_id="a")], {}).used == frozenset()
