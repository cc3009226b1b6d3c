"""smolagents."""

from typing import Any

from tests.agents.outside import AGENTS, call_tool, factors, run_outside, text_of
from tests.agents.training import ANSWER, check_steps, forced_call, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Multiply, then give the result as the final answer, which is a tool here."""
    a, b = factors(request)
    if str(a * b) in text_of(request["messages"][-1]):
        return call_tool(request, "final_answer", answer=str(a * b))
    return call_tool(request, "multiply", a=a, b=b)


async def test_smolagents_agent(tmp_path):
    """A blocking framework in threads: streams with tool calls, each under its own rollout."""
    seen = await run_outside(AGENTS, "smolagents_agent", script, tmp_path)
    seen.check()
    assert [len(calls) for calls in seen.calls] == [2] * len(seen.rollouts)
    assert all(call.stream for calls in seen.calls for call in calls)


def test_smolagents_agent_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    multiply = forced_call("multiply", a=11, b=90)
    right, wrong = (forced_call("final_answer", answer=text) for text in (ANSWER, "1"))
    phrases = {multiply: 0.1, right: 0.2, wrong: 0.2}
    options = {"context": 16384, "group": 6}
    check_steps(train_outside(AGENTS, "smolagents_agent", tmp_path, phrases, **options), group=6)
