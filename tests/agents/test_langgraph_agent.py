"""LangChain and LangGraph."""

from typing import Any

from tests.agents.outside import AGENTS, run_outside, use_tool
from tests.agents.training import ANSWER, GROUP, MULTIPLY, check_steps, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Solve with the tool; the checker repeats what it was told."""
    if request.get("tools"):
        return use_tool(request)
    return Answer(text=request["messages"][-1]["content"])


async def test_langgraph_agent(tmp_path):
    """The nodes of a graph are kept apart by their base URLs, over streams with tool calls."""
    seen = await run_outside(AGENTS, "langgraph_agent", script, tmp_path)
    seen.check()
    assert seen.roles() == [["solver", "solver", "checker"]] * len(seen.rollouts)
    assert all(call.stream for calls in seen.calls for call in calls)


def test_langgraph_agent_trains_one_of_its_roles(tmp_path):
    """The same graph trains, and only the chosen role of it."""
    phrases = {MULTIPLY: 0.1, ANSWER: 0.45}
    steps = train_outside(AGENTS, "langgraph_agent", tmp_path, phrases, roles="checker")
    check_steps(steps, calls=2)
    for step in steps:
        assert step.get("training/n_rows", GROUP) <= GROUP
