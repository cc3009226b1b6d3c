"""The Claude Agent SDK."""

from typing import Any

from tests.agents.outside import AGENTS, call_tool, factors, run_outside, use_tool
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Give the question to the subagent, which multiplies, and repeat its report."""
    names = [tool["function"]["name"] for tool in request.get("tools", [])]
    asked_before = any(message["role"] == "tool" for message in request["messages"])
    if "Agent" in names and not asked_before:
        a, b = factors(request)
        question = f"What is {a} times {b}?"
        return call_tool(
            request, "Agent", description="solve", prompt=question, subagent_type="solver"
        )
    return use_tool(request, "mcp__math__multiply")


async def test_unnamed_subagents(tmp_path):
    """A subagent whose model has no role of its own is told by the id that the program sends."""
    seen = await run_outside(
        AGENTS, "claude_sdk", script, tmp_path, count=1, models={"solver": None}
    )
    seen.check()
    ((first, second, third, last),) = seen.roles()
    assert (first, last) == (None, None)
    assert second == third
    assert second is not None
    assert second.startswith("subagent:")


async def test_claude_sdk(tmp_path):
    """A subagent is told from its parent by the name it calls the model by."""
    models = {"solver": "solver"}
    seen = await run_outside(AGENTS, "claude_sdk", script, tmp_path, count=2, models=models)
    seen.check()
    assert seen.roles() == [[None, "solver", "solver", None]] * len(seen.rollouts)
    assert all(call.stream for calls in seen.calls for call in calls)
