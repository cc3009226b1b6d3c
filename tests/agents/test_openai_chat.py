"""The plain `openai` package."""

from tests.agents.outside import AGENTS, run_outside, use_tool
from tests.agents.training import ANSWER, MULTIPLY, check_steps, train_outside


async def test_openai_chat(tmp_path):
    """Streams with tool calls are recorded with their ids, each under its own rollout."""
    seen = await run_outside(AGENTS, "openai_chat", use_tool, tmp_path)
    seen.check()
    assert seen.tool_results() == [str(r.input["answer"]) for r in seen.rollouts]
    assert all(call.stream for calls in seen.calls for call in calls)


def test_openai_chat_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    phrases = {MULTIPLY: 0.15, ANSWER: 0.35}
    check_steps(train_outside(AGENTS, "openai_chat", tmp_path, phrases))
