"""The OpenAI Agents SDK."""

from typing import Any

from tests.agents.outside import AGENTS, call_tool, run_outside, use_tool
from tests.agents.training import ANSWER, MULTIPLY, check_steps, tool_call, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Hand over, multiply, answer: as far as each agent's tools allow."""
    names = [tool["function"]["name"] for tool in request.get("tools", [])]
    if "transfer_to_solver" in names:
        return call_tool(request, "transfer_to_solver")
    handed_over = [m for m in request["messages"] if m["role"] == "tool"][:1]
    others = [m for m in request["messages"] if m not in handed_over]
    return use_tool({**request, "messages": others})


async def test_openai_agents(tmp_path):
    """A handover keeps its agents apart by header, over streams with tool calls."""
    seen = await run_outside(AGENTS, "openai_agents", script, tmp_path)
    seen.check()
    assert seen.roles() == [["triage", "solver", "solver"]] * len(seen.rollouts)
    assert seen.tool_results() == [str(r.input["answer"]) for r in seen.rollouts]
    assert all(call.stream for calls in seen.calls for call in calls)


def test_openai_agents_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    phrases = {tool_call("transfer_to_solver"): 0.15, MULTIPLY: 0.05, ANSWER: 0.3}
    check_steps(train_outside(AGENTS, "openai_agents", tmp_path, phrases))
