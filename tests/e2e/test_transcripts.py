"""Real clients of three protocols through a real gateway: one transcript, and each agent's name."""

import asyncio
import itertools
from typing import Any

import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

import agentlightning as agl
from agentlightning.adapter.calls import find_calls
from agentlightning.adapter.export import ExportOptions, export_rollouts
from agentlightning.emitter import span
from agentlightning.instrumentation.clients import instrument_clients, uninstrument_clients
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import LLM, ProxyLLM
from tests.gateway.running import HELLO, running
from tests.support.chat_schema import assert_valid_messages, assert_valid_tools
from tests.support.model_server import Answer, ModelServer

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "look", "description": "looks", "parameters": PARAMETERS}
RULES, QUESTION, SEEN, VERDICT = "be brief", "weather in Rome?", "sunny", "It is sunny."


def reply(body: dict[str, Any]) -> Answer:
    """Ask for the tool first, and then say what it saw."""
    if any(message["role"] == "tool" for message in body["messages"]):
        return Answer(text=VERDICT)
    return Answer(text="", tools=[("look", '{"city": "Rome"}')])


def with_chat(llm: LLM) -> None:
    messages: list[Any] = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": QUESTION},
    ]
    tools: list[Any] = [{"type": "function", "function": FUNCTION}]
    with OpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        for _ in range(2):
            answer = client.chat.completions.create(model=llm.model, messages=messages, tools=tools)
            said = answer.choices[0].message
            messages.append(said.model_dump(exclude_none=True))
            for call in said.tool_calls or ():
                messages.append({"role": "tool", "tool_call_id": call.id, "content": SEEN})


def with_responses(llm: LLM) -> None:
    items: list[Any] = [{"role": "user", "content": QUESTION}]
    tools: list[Any] = [{"type": "function", "strict": None, **FUNCTION}]
    with OpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        for _ in range(2):
            answer = client.responses.create(
                model=llm.model, instructions=RULES, input=items, tools=tools
            )
            for item in answer.output:
                items.append(item.model_dump(exclude_none=True))
                if item.type == "function_call":
                    result = {"type": "function_call_output", "call_id": item.call_id}
                    items.append({**result, "output": SEEN})


def with_anthropic(llm: LLM) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    described = {"name": "look", "description": "looks", "input_schema": PARAMETERS}
    base_url = llm.endpoint.removesuffix("/v1")
    with Anthropic(base_url=base_url, api_key="none", max_retries=0) as client:
        for _ in range(2):
            answer = client.messages.create(
                model=llm.model, system=RULES, messages=messages, tools=[described], max_tokens=99
            )
            messages.append({"role": "assistant", "content": answer.model_dump()["content"]})
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": SEEN}
                for block in answer.content
                if block.type == "tool_use"
            ]
            messages.append({"role": "user", "content": results})


def essence(message: dict[str, Any]) -> tuple[Any, ...]:
    """Return what all protocols keep: no ids, and texts whether in parts or not."""
    content = message["content"] or ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    calls = [
        (c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ())
    ]
    return message["role"], content, calls


@pytest.mark.parametrize("talk", [with_chat, with_responses, with_anthropic])
async def test_one_transcript_whatever_the_protocol(talk):
    """A conversation with a tool gives the same training data from all protocols."""
    store = InMemoryLightningStore(thread_safe=True)
    with ModelServer(reply) as server:
        async with running(server, store) as gateway:
            llm = ProxyLLM(endpoint=gateway.gateway.endpoint, model="m")
            context = agl.TrainingContext("weather", store=store, llm=llm)
            async with context:
                await asyncio.to_thread(talk, context.llm)
                context.reward = 1.0
    spans = await store.query_spans(context.rollout_id)
    (transcript,) = agl.TraceToMessages(per_conversation=True).adapt(spans)
    assert_valid_messages(transcript["messages"], ends_open=False)
    assert_valid_tools(transcript["tools"])
    assert [essence(message) for message in transcript["messages"]] == [
        ("system", RULES, []),
        ("user", QUESTION, []),
        ("assistant", "", [("look", '{"city": "Rome"}')]),
        ("tool", SEEN, []),
        ("assistant", VERDICT, []),
    ]
    assert transcript["tools"] is not None
    assert transcript["tools"][0]["function"]["parameters"] == PARAMETERS
    triplets = agl.TracerTraceToTriplet().adapt(spans)
    assert [bool(t.prompt["token_ids"] and t.response["token_ids"]) for t in triplets] == [True] * 2
    assert [t.prompt["raw_content"][-1]["role"] for t in triplets] == ["user", "tool"]
    assert triplets[-1].reward == 1.0
    data = await export_rollouts(store, "trl-prompt-completion", ExportOptions(min_reward=1.0))
    (record,) = data.records
    assert [m["role"] for m in record["completion"]] == ["assistant", "tool", "assistant"]
    await store.close()


async def test_agents_without_headers_are_told_apart():
    """Calls of agents at work at once take the name of the agent span that their client was in."""
    numbers = itertools.count()

    def numbered(_body: dict[str, Any]) -> Answer:
        return Answer(response_id=f"answer-{next(numbers)}")

    store = InMemoryLightningStore(thread_safe=True)
    names = [f"agent-{number}" for number in range(6)]
    with ModelServer(numbered) as server:
        async with running(server, store) as gateway:
            llm = ProxyLLM(endpoint=gateway.gateway.endpoint, model="m")
            context = agl.TrainingContext("team", store=store, llm=llm)
            async with context:
                instrument_clients()
                try:
                    await asyncio.gather(*(work(name, context.llm) for name in names))
                finally:
                    uninstrument_clients()
    calls = find_calls(await store.query_spans(context.rollout_id))
    assert len(calls) == 2 * len(names)
    assert {(call.role, call.request["messages"][0]["content"]) for call in calls} == {
        (name, name) for name in names
    }
    await store.close()


async def work(name: str, llm: LLM) -> None:
    """Be an agent that makes two calls and says its name in them."""
    async with (
        span("work", **{"agent.name": name}),
        AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client,
    ):
        for _ in range(2):
            messages = [{**HELLO[0], "content": name}]
            await client.chat.completions.create(model=llm.model, messages=messages)
