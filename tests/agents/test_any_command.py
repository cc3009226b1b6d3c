"""Programs that only know their environment."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentlightning.semconv import AGL_OPERATION
from tests.agents.outside import AGENTS, HERE, Seen, call_tool, factors, run_outside, text_of
from tests.agents.training import ANSWER, check_steps, lines_of, tool_call, train_outside
from tests.support.model_server import Answer


def bundled() -> Path:
    """Return where the Claude Agent SDK has its program."""
    return next(AGENTS.parents[1].glob("lib/python3*/site-packages/claude_agent_sdk/_bundled"))


def script(request: dict[str, Any]) -> Answer:
    """Answer at once."""
    a, b = factors(request)
    return Answer(text=f"It is {a * b}.")


@pytest.mark.parametrize("name", ["agent", "curl_agent"])
async def test_any_command(tmp_path, name):
    """A Python program and a line of shell are recorded by the URL in their environment alone."""
    seen = await run_outside(HERE, f"any_command:{name}", script, tmp_path)
    seen.check()
    assert [len(calls) for calls in seen.calls] == [1] * len(seen.rollouts)
    for spans in seen.spans:
        (operation,) = [span for span in spans if span.name == AGL_OPERATION]
        assert operation.attributes["agentlightning.operation.output.exit_code"] == 0


def use_shell(request: dict[str, Any]) -> Answer:
    """Calculate in the shell, and repeat what it prints; answer side questions shortly."""
    if not request.get("tools"):
        return Answer(text="{}")
    a, b = factors(request)
    results = [text_of(m) for m in request["messages"] if m["role"] == "tool"]
    if not results:
        return call_tool(request, "Bash", command=f"expr {a} '*' {b}", description="multiply")
    return Answer(text=f"The answer is {results[-1]}")


async def run_claude(home: Path, count: int) -> Seen:
    agent = "any_command:claude_agent"
    return await run_outside(HERE, agent, use_shell, home, count=count, path=bundled())


async def test_claude(tmp_path):
    """Anthropic's coding agent, on a model that speaks chat, runs a command and is recorded."""
    seen = await run_claude(tmp_path, 2)
    seen.check()
    assert {call.dialect for calls in seen.calls for call in calls} == {"anthropic.messages"}
    assert seen.tool_results() == [str(r.input["answer"]) for r in seen.rollouts]
    assert all(call.stream for calls in seen.calls for call in calls)


def test_any_command_trains(tmp_path):
    """The same program trains: its calls become rows, and each step moves the weights."""
    check_steps(train_outside(HERE, "any_command", tmp_path, {ANSWER: 0.5}))


def test_claude_trains(tmp_path):
    """Anthropic's coding agent trains: its long prompt fits, its calls become rows."""
    (tmp_path / "before").mkdir()
    seen = asyncio.run(run_claude(tmp_path / "before", 1))
    shell = tool_call("Bash", command="expr 11 '*' 90", description="multiply")
    steps = train_outside(
        HERE,
        "any_command:claude_agent",
        tmp_path,
        {shell: 0.1, ANSWER: 0.2, "I do not know.": 0.2},
        words=lines_of(seen.calls[0][0].chat_request),
        context=8192,
        path=bundled(),
        group=5,
    )
    check_steps(steps, group=5)
