"""A conversation with tools on the embedded engine: one training row, whatever the client does."""

import copy
import json
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI

from agentlightning.adapter.calls import find_calls
from agentlightning.adapter.token_row import ForkCause
from agentlightning.adapter.token_tree import build_token_rows
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import load_model
from agentlightning.engine.service import EngineUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import ProxyLLM
from tests.support.chat_tokenizer import STRIPPING
from tests.support.scripted_model import teach
from tests.support.tiny_model import make_tiny_model

torch.set_num_threads(1)

CALL = '<tool_call>\n{"name": "add", "arguments": {"b": 2,  "a": 1.0}}\n</tool_call>'
SAID = (
    f"<think>\nI need a tool.\n</think>\n\n{CALL}",
    "<think>\nIt says three.\n</think>\n\nThree. ",
    "Good bye.",
)
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def echoed(message: Any) -> dict[str, Any]:
    """Send an answer back as a careless client does: trimmed, its arguments written anew."""
    said = message.model_dump(exclude_none=True)
    said["content"] = (said.get("content") or "").strip()
    for call in said.get("tool_calls", []):
        arguments = json.loads(call["function"]["arguments"])
        tidy = json.dumps(arguments, sort_keys=True, separators=(",", ":")).replace("1.0", "1")
        call["function"]["arguments"] = tidy
    return said


async def converse(base_url: str, *, stream: bool) -> None:
    """Two questions, the first of which takes a tool."""
    async with AsyncOpenAI(base_url=base_url, api_key="-", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "1+2?"}]

        async def ask() -> Any:
            asked = {"model": "tiny", "messages": messages, "tools": [TOOL], "max_tokens": 200}
            if not stream:
                return (await client.chat.completions.create(**asked)).choices[0].message
            async with client.chat.completions.stream(**asked) as events:
                return (await events.get_final_completion()).choices[0].message

        first = await ask()
        (call,) = first.tool_calls
        messages += [
            echoed(first),
            {"role": "tool", "tool_call_id": call.id, "content": "3"},
        ]
        messages += [echoed(await ask()), {"role": "user", "content": "Bye"}]
        assert (await ask()).content == "Good bye."


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that reasons, calls a tool and answers, with a template that drops reasoning."""
    loaded = load_model(make_tiny_model(tmp_path_factory.mktemp("tiny"), context=1024))
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = STRIPPING
    return loaded, tokenizer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("history", ["exact", "template"])
async def test_a_conversation_with_tools_is_one_row_in_exact_mode(
    thinking: Any, history: Any, stream: bool
) -> None:
    """Exact: one row that holds all that was sampled. Template: each altered answer forks."""
    loaded, tokenizer = thinking
    engine = Engine(teach(loaded, *SAID), tokenizer)
    engine.start()
    store = InMemoryLightningStore()
    upstream = EngineUpstream(engine, model="tiny", history=history)
    gateway = Gateway(store, models={"tiny": ModelRoute(upstream=upstream, model="tiny")})
    await gateway.start()
    try:
        rollout = await store.start_rollout("sum")
        ids = (rollout.rollout_id, rollout.attempt.attempt_id)
        llm = ProxyLLM(endpoint=gateway.endpoint, model="tiny")
        await converse(llm.get_base_url(*ids), stream=stream)
        calls = find_calls(await store.query_spans(rollout.rollout_id))
        stats = upstream.history_stats()
        assert stats.conversations == (history == "exact")
        async with httpx.AsyncClient() as client:
            await client.post(llm.get_base_url(*ids).removesuffix("/v1") + "/seal")
        assert upstream.history_stats().conversations == 0
    finally:
        await gateway.stop()
        engine.stop()
    rows, report = build_token_rows(calls, decode=tokenizer.decode)
    sampled = [tokenizer.decode(call.choices[0].token_ids) for call in calls]
    assert sampled == [text + "<|im_end|>" for text in SAID]
    assert report.trained_tokens == sum(len(call.choices[0].token_ids) for call in calls)
    if history == "exact":
        (row,) = rows
        assert report.forks == {}
        assert report.merge_ratio == 3
        assert stats.prompts == {"first": 1, "spliced": 2}
        text = tokenizer.decode(row.ids)
        assert all(text.count(said) == 1 for said in SAID)
    else:
        assert len(rows) == 3
        assert report.forks == {ForkCause.TOOL_JSON: 1, ForkCause.TEMPLATE: 1}
        assert stats.prompts == {"first": 3}
        assert "I need a tool" not in tokenizer.decode(calls[2].prompt_token_ids)
