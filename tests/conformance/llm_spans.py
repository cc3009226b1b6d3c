"""What every writer of spans has to tell about a model call, on real calls of real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from agentlightning.adapter.llm_call import LlmCall
from agentlightning.adapter.llm_span import read_llm_call
from agentlightning.adapter.transcript import normal_messages, normal_tools
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types.tracer import Span
from tests.support.model_server import Answer

TOOL: dict[str, Any] = {
    "name": "search",
    "description": "Finds things.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
}
CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "search", "arguments": '{"q": "sky"}'},
}
TEXT, ARGUMENTS = "Let me see.", '{"q": "x"}'


def conversation(number: int) -> list[dict[str, Any]]:
    """Return what is asked: a system message, a tool's call and result, and questions."""
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": "ok", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "user", "content": "and?"},
    ]


def blocks(number: int) -> list[dict[str, Any]]:
    """Return the same for Anthropic's client, less the system message."""
    use = {"type": "tool_use", "id": "c1", "name": "search", "input": {"q": "sky"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "found"}
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": [{"type": "text", "text": "ok"}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]


def answer(request: dict[str, Any]) -> Answer:
    """Answer with a text, and with a tool call if there are tools."""
    return Answer(text=TEXT, tools=[("search", ARGUMENTS)] if request.get("tools") else [])


async def record_rollouts(
    tracer: OtelTracer, count: int, agent: Callable[[int], Awaitable[None]]
) -> list[list[Span]]:
    """Run so many agents at once, each in its rollout, and return each one's stored spans."""
    store = InMemoryLightningStore()

    async def one(number: int) -> list[Span]:
        rollout = await store.start_rollout(input=number)
        ids = {"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}
        async with tracer.trace_context(f"run-{number}", **ids):
            await agent(number)
        spans = [*await store.query_spans(**ids)]
        assert tracer.export_counts(**ids) == (len(spans), 0)
        return spans

    try:
        with tracer.lifespan(store):
            return await asyncio.gather(*map(one, range(count)))
    finally:
        await store.close()


def calls_of(spans: list[Span]) -> list[LlmCall]:
    """Return the calls among spans, in the order in which they began."""
    ordered = sorted(spans, key=lambda span: span.start_time or 0.0)
    return [call for call in map(read_llm_call, ordered) if call is not None]


def check_call(
    call: LlmCall, number: int, *, tools: bool, lost: frozenset[str] = frozenset()
) -> None:
    """Check that a call is told whole.

    Args:
        call: The call.
        number: The rollout's number, which the question holds.
        tools: Whether tools were offered, so that one was called.
        lost: What this writer is known not to tell: `system`, `history`, `tool_calls`, `usage`,
            `id` or `definitions`.
    """
    told = normal_messages(call.messages, {"content": ""})[:-1]
    expected = normal_messages(conversation(number), {"content": ""})[:-1]
    if "system" in lost:
        del expected[0]
    if "history" in lost:
        told, expected = ([m for m in x if m["role"] == "user"][:1] for x in (told, expected))
    assert _comparable(told) == _comparable(expected)
    first = call.answers[0]
    said = first.get("message", first)
    assert said["content"] == TEXT
    assert said.get("role") in {"assistant", None}
    if tools and "tool_calls" not in lost:
        (made,) = normal_messages([], said)[0]["tool_calls"]
        assert made["function"]["name"] == "search"
        assert json.loads(made["function"]["arguments"]) == json.loads(ARGUMENTS)
    if tools and "definitions" not in lost:
        (definition,) = normal_tools(call.request) or []
        assert definition["function"] == TOOL
    assert call.model == "m"
    if "id" not in lost:
        assert call.response_id == "chatcmpl-1"
    if "usage" not in lost:
        assert call.usage["total_tokens"] == sum(
            call.usage[name] for name in ("prompt_tokens", "completion_tokens")
        )
        assert call.usage["completion_tokens"] > 0


def _comparable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with arguments parsed and an answer's empty content as a text."""
    made: list[dict[str, Any]] = []
    for message in messages:
        calls = [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in message.get("tool_calls", [])
        ]
        made.append({**message, "content": message["content"] or "", "tool_calls": calls})
    return made
