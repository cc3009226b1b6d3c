"""A rollout that cannot be learnt from says why."""

import re

import pytest

from agentlightning.adapter.diagnosis import Lack, diagnose
from agentlightning.types import CallChoice
from tests.support.spans import make_call, make_llm_span, make_reward_span, make_span

REWARD = make_reward_span("r", 1.0, 9)


@pytest.mark.parametrize(
    ("spans", "lack", "words"),
    [
        ([], Lack.NO_SPANS, "no spans seen. Does the agent"),
        (
            [make_span("a"), make_span("b"), make_span("c", name="tool")],
            Lack.NO_CALLS,
            r"3 spans seen \(step x 2, tool\), none of them a call through our gateway.*`llm`",
        ),
        ([make_llm_span("a")], Lack.NOT_CAPTURED, "1 of them model calls, none of which"),
        (
            [
                make_call("ca-1", outcome="cancelled").to_span(),
                make_call("ca-2", outcome="error", error="500", end=2.0).to_span(),
            ],
            Lack.ALL_FAILED,
            r"every call failed \(2; the last with: 500\)",
        ),
        (
            [make_call("ca-1", trained=False, role="judge").to_span()],
            Lack.UNTRAINED,
            r"not trained \(judge\)",
        ),
        (
            [make_call("ca-1", choices=[CallChoice(message={})]).to_span()],
            Lack.NO_TOKEN_IDS,
            "1 calls without token ids: .*vLLM",
        ),
    ],
)
def test_what_is_lacking(spans, lack, words):
    """The reason is a class, and a sentence with what was seen and what to do."""
    lacking = diagnose(spans)
    assert lacking is not None
    assert lacking.lacks == (lack, Lack.NO_REWARD)
    assert lacking.lacks_calls

    assert re.search(words, lacking.message().splitlines()[0])
    assert "emit_reward" in lacking.message().splitlines()[1]


def test_agents_that_are_not_selected():
    """Where a choice of agents leaves no call, those that there are are named."""
    spans = [
        make_span("agent", agent__name="planner"),
        make_call("ca-1", parent_span_id="agent").to_span(),
        make_call("ca-2").to_span(),
        REWARD,
    ]
    found = diagnose(spans, agents="writer")
    assert found is not None
    assert found.lacks == (Lack.OTHER_AGENTS,)
    assert found.reason(Lack.OTHER_AGENTS) == (
        "only calls of agents that are not selected (planner, policy)"
    )
    assert diagnose(spans, agents="^planner$") is None


def test_nothing_is_lacking():
    """One trainable call and a reward are enough; without the reward that is said alone."""
    spans = [make_call("ca-1").to_span(), make_call("ca-2", outcome="error").to_span()]
    assert diagnose([*spans, REWARD]) is None
    found = diagnose(spans)
    assert found is not None
    assert found.lacks == (Lack.NO_REWARD,)
    assert not found.lacks_calls
