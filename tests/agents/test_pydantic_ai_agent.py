"""Pydantic AI."""

from typing import Any

from tests.agents.outside import AGENTS, call_tool, run_outside, text_of, use_tool
from tests.agents.training import ANSWER, check_steps, forced_call, train_outside
from tests.support.model_server import Answer


def script(request: dict[str, Any]) -> Answer:
    """Multiply, then answer in words, which is not what was asked for, and then as asked."""
    results = [text_of(m) for m in request["messages"] if m["role"] == "tool"]
    said = [m for m in request["messages"] if m["role"] == "assistant"]
    if len(said) < 2:
        return use_tool(request)
    return call_tool(request, "final_result", product=int(results[0]))


async def test_pydantic_ai_agent(tmp_path):
    """Calls that Pydantic AI repeats until the type is right are recorded like all others."""
    seen = await run_outside(AGENTS, "pydantic_ai_agent", script, tmp_path)
    seen.check()
    assert [len(calls) for calls in seen.calls] == [3] * len(seen.rollouts)


def test_pydantic_ai_agent_trains(tmp_path):
    """The same agent trains: its calls become rows, and each step moves the weights."""
    multiply = forced_call("multiply", a=11, b=90)
    right, wrong = (forced_call("final_result", product=n) for n in (int(ANSWER), 1))
    phrases = {multiply: 0.1, right: 0.2, wrong: 0.2}
    check_steps(train_outside(AGENTS, "pydantic_ai_agent", tmp_path, phrases))
