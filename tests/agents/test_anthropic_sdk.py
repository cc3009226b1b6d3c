"""The plain `anthropic` package."""

from tests.agents.outside import AGENTS, run_outside, use_tool
from tests.agents.training import ANSWER, MULTIPLY, check_steps, train_outside


async def test_anthropic_sdk(tmp_path):
    """Anthropic's client on a model that speaks chat: recorded with ids, streamed, with tools."""
    seen = await run_outside(AGENTS, "anthropic_sdk", use_tool, tmp_path)
    # Its tool runner first asks for a conversation that the server keeps, and then does without.
    seen.check(refused=1)
    assert {call.dialect for calls in seen.calls for call in calls} == {"anthropic.messages"}
    assert seen.tool_results() == [str(r.input["answer"]) for r in seen.rollouts]
    assert all(call.stream for calls in seen.calls for call in calls)


def test_anthropic_sdk_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    phrases = {MULTIPLY: 0.15, ANSWER: 0.35}
    check_steps(train_outside(AGENTS, "anthropic_sdk", tmp_path, phrases))
