"""CrewAI."""

from typing import Any

from tests.agents.outside import CREWAI, run_outside, text_of, use_tool
from tests.agents.training import ANSWER, MULTIPLY, check_steps, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Solve with the tool; the checker repeats what it was told."""
    if request.get("tools"):
        return use_tool(request)
    return Answer(text=text_of(request["messages"][-1]))


async def test_crewai_crew(tmp_path):
    """The members of a crew are kept apart by their base URLs, over streams with tool calls."""
    seen = await run_outside(CREWAI, "crewai_crew", script, tmp_path)
    seen.check()
    assert seen.roles() == [["solver", "solver", "checker"]] * len(seen.rollouts)
    assert all(call.stream for calls in seen.calls for call in calls)


def test_crewai_crew_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    phrases = {MULTIPLY: 0.15, ANSWER: 0.35}
    steps = train_outside(CREWAI, "crewai_crew", tmp_path, phrases, group=6)
    check_steps(steps, calls=2, group=6)
