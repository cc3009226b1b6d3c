"""A conversation with tools on the embedded engine: one training row, whatever the client does."""

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import torch
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from agentlightning.adapter.calls import find_calls
from agentlightning.adapter.token_row import ForkCause
from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.engine.service import EngineUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import ProxyLLM
from tests.support.chat_tokenizer import HEADED, STRIPPING
from tests.support.scripted_model import teach
from tests.support.tiny_model import make_tiny_model

torch.set_num_threads(1)

CALL = '<tool_call>\n{"name": "add", "arguments": {"b": 2,  "a": 1.0}}\n</tool_call>'
THOUGHTS = ("\nI need a tool.\n", "\nIt says three.\n")
SAID = {
    STRIPPING: (
        f"<think>{THOUGHTS[0]}</think>\n\n{CALL}",
        f"<think>{THOUGHTS[1]}</think>\n\nThree. ",
        "Good bye.",
    ),
    HEADED: (
        f"{THOUGHTS[0]}</think>\n\n{CALL}",
        f"{THOUGHTS[1]}</think>\n\nThree. ",
        "</think>Good bye.",
    ),
}
"""What the model writes: with the first template it opens its reasoning, the second does that."""
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def echoed(message: Any, *, keeps: bool) -> dict[str, Any]:
    """Send an answer back as a careless client does: trimmed, its arguments written anew."""
    said = message.model_dump(exclude_none=True)
    said["content"] = (said.get("content") or "").strip()
    for call in said.get("tool_calls", []):
        arguments = json.loads(call["function"]["arguments"])
        tidy = json.dumps(arguments, sort_keys=True, separators=(",", ":")).replace("1.0", "1")
        call["function"]["arguments"] = tidy
    if not keeps:
        said.pop("reasoning_content")
    return said


async def converse(base_url: str, *, stream: bool, keeps: bool = True) -> None:
    """Two questions, the first of which takes a tool; reasoning is sent back or dropped."""
    async with AsyncOpenAI(base_url=base_url, api_key="-", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "1+2?"}]

        async def ask() -> Any:
            asked = {"model": "tiny", "messages": messages, "tools": [TOOL], "max_tokens": 200}
            if not stream:
                return (await client.chat.completions.create(**asked)).choices[0].message
            async with client.chat.completions.stream(**asked) as events:
                return (await events.get_final_completion()).choices[0].message

        first = await ask()
        assert (first.reasoning_content, first.content) == (THOUGHTS[0], "\n\n")
        (call,) = first.tool_calls
        messages += [
            echoed(first, keeps=keeps),
            {"role": "tool", "tool_call_id": call.id, "content": "3"},
        ]
        second = await ask()
        assert (second.reasoning_content, second.content) == (THOUGHTS[1], "\n\nThree. ")
        messages += [echoed(second, keeps=keeps), {"role": "user", "content": "Bye"}]
        assert (await ask()).content == "Good bye."


async def converse_with_anthropic(base_url: str, *, stream: bool, keeps: bool = True) -> None:
    """The same two questions from the other client, in its own format."""
    async with AsyncAnthropic(
        base_url=base_url.removesuffix("/v1"), api_key="-", max_retries=0
    ) as client:
        tool: Any = {"name": "add", "input_schema": {"type": "object"}}
        messages: list[Any] = [{"role": "user", "content": "1+2?"}]

        async def ask() -> Any:
            asked: Any = {"model": "tiny", "messages": messages, "tools": [tool]}
            if not stream:
                said = await client.messages.create(max_tokens=200, **asked)
            else:
                async with client.messages.stream(max_tokens=200, **asked) as events:
                    said = await events.get_final_message()
            blocks = [block.model_dump(exclude_none=True) for block in said.content]
            kept = [block for block in blocks if keeps or block["type"] != "thinking"]
            messages.append({"role": "assistant", "content": kept})
            return said.content

        thought, text, call = await ask()
        assert (thought.thinking, text.text) == (THOUGHTS[0], "\n\n")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "3"}
        messages.append({"role": "user", "content": [result]})
        thought, text = await ask()
        assert (thought.thinking, text.text) == (THOUGHTS[1], "\n\nThree. ")
        messages.append({"role": "user", "content": "Bye"})
        assert (await ask())[-1].text == "Good bye."


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_tiny_model(tmp_path_factory.mktemp("tiny"), context=1024))


@pytest.fixture(params=[STRIPPING, HEADED], ids=["stripping", "headed"])
def thinking(request: pytest.FixtureRequest, loaded: LoadedModel) -> Any:
    """A model that reasons, calls a tool and answers, with a template that drops reasoning."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = request.param
    return loaded, tokenizer


@asynccontextmanager
async def served(thinking: Any, history: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    """A gateway before the model: upstream, URL of an attempt, and what reads its calls."""
    loaded, tokenizer = thinking
    engine = Engine(teach(loaded, *SAID[tokenizer.chat_template]), tokenizer)
    engine.start()
    store = InMemoryLightningStore()
    upstream = EngineUpstream(engine, model="tiny", history=history)
    gateway = Gateway(store, models={"tiny": ModelRoute(upstream=upstream, model="tiny")})
    await gateway.start()
    try:
        rollout = await store.start_rollout("sum")
        llm = ProxyLLM(endpoint=gateway.endpoint, model="tiny")
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)

        async def calls() -> Any:
            return find_calls(await store.query_spans(rollout.rollout_id))

        yield upstream, url, calls
    finally:
        await gateway.stop()
        engine.stop()


@pytest.mark.parametrize("keeps", [True, False], ids=["sent back", "dropped"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("talk", [converse, converse_with_anthropic])
async def test_a_conversation_with_tools_is_one_row_in_exact_mode(
    thinking: Any, talk: Any, stream: bool, keeps: bool
) -> None:
    """Whatever the client, its format and what it does with reasoning: one row that holds all that
    was sampled, each once.
    """
    said = SAID[thinking[1].chat_template]
    async with served(thinking, "exact") as (upstream, url, read_calls):
        await talk(url, stream=stream, keeps=keeps)
        calls = await read_calls()
    decode = thinking[1].decode
    (row,), report = build_token_rows(calls, decode=decode)
    assert [decode(call.choices[0].token_ids) for call in calls] == [
        f"{text}<|im_end|>" for text in said
    ]
    assert all(len(c.choices[0].logprobs) == len(c.choices[0].token_ids) for c in calls)
    thoughts = [call.choices[0].message.get("reasoning_content") for call in calls]
    assert thoughts[:2] == list(THOUGHTS)
    assert report.trained_tokens == sum(len(call.choices[0].token_ids) for call in calls)
    assert (report.forks, report.merge_ratio) == ({}, 3)
    assert all(decode(row.ids).count(text) == 1 for text in said)
    assert upstream.history_stats().prompts == {"first": 1, "spliced": 2}


@pytest.mark.parametrize("thinking", [STRIPPING], indirect=True, ids=["stripping"])
async def test_rendered_anew_each_altered_answer_forks(thinking: Any) -> None:
    """In template mode the rewritten call and the dropped reasoning make rows of their own."""
    async with served(thinking, "template") as (upstream, url, read_calls):
        await converse(url, stream=False)
        calls = await read_calls()
    decode = thinking[1].decode
    rows, report = build_token_rows(calls, decode=decode)
    assert len(rows) == 3
    assert report.forks == {ForkCause.TOOL_JSON: 1, ForkCause.TEMPLATE: 1}
    assert report.trained_tokens == sum(len(call.choices[0].token_ids) for call in calls)
    assert "I need a tool" not in decode(calls[2].prompt_token_ids)
    assert upstream.history_stats().prompts == {"first": 3}


async def test_a_sealed_attempt_is_forgotten(thinking: Any) -> None:
    """When its runner seals an attempt, nothing of it is kept, and late calls are still served."""
    async with served(thinking, "exact") as (upstream, url, _):
        await converse(url, stream=False)
        assert upstream.history_stats().conversations == 1
        async with httpx.AsyncClient() as client:
            await client.post(url.removesuffix("/v1") + "/seal")
        stats = upstream.history_stats()
        assert (stats.conversations, stats.tokens) == (0, 0)
        await converse(url, stream=False)
