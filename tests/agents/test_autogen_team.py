"""AutoGen."""

from typing import Any

from tests.agents.outside import AGENTS, run_outside, text_of, use_tool
from tests.agents.training import ANSWER, MULTIPLY, check_steps, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Solve with the tool; the checker ends the talk."""
    if "DONE" in text_of(request["messages"][0]):
        return Answer(text="DONE")
    return use_tool(request)


async def test_autogen_team(tmp_path):
    """The members of a team are kept apart by their base URLs, over streams with tool calls."""
    seen = await run_outside(AGENTS, "autogen_team", script, tmp_path)
    seen.check()
    assert seen.roles() == [["solver", "solver", "checker"]] * len(seen.rollouts)
    assert all(call.stream for calls in seen.calls for call in calls)


def test_autogen_team_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    phrases = {MULTIPLY: 0.1, ANSWER: 0.1, "DONE": 0.3}
    check_steps(train_outside(AGENTS, "autogen_team", tmp_path, phrases), calls=1)
