"""Model calls are recognised by what their spans say, not by what these are called.

What real libraries write is in `tests/tracer/test_conformance.py`; here are the edges.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.conventions.genai import chat_messages
from agentlightning.adapter.llm_span import is_llm_call, read_llm_call, to_triplet
from agentlightning.types.tracer import Span

MESSAGES = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "q"}]}])


def span(name: str = "anything", **attributes: Any) -> Span:
    return Span.from_attributes(attributes=attributes, name=name)


CALLS: dict[str, dict[str, Any]] = {
    "genai": {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"},
    "genai without operation": {"gen_ai.output.messages": "[]"},
    "genai-indexed": {"gen_ai.prompt.0.role": "user", "gen_ai.request.model": "m"},
    "genai-indexed by type": {"gen_ai.request.type": "chat"},
    "genai-indexed, older": {"llm.request.type": "completion"},
    "genai-indexed by token ids": {"prompt_token_ids": [1], "response_token_ids": [2]},
    "openinference": {"openinference.span.kind": "LLM"},
    "litellm": {"llm.some_provider.messages": "[]"},
    "operation": {"agentlightning.operation.output.choices.0.message.content": "a"},
}
OTHERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an agent": {"gen_ai.operation.name": "invoke_agent", "gen_ai.output.messages": MESSAGES},
    "a tool": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t"},
    "embeddings": {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "m"},
    "older embeddings": {"gen_ai.request.type": "embedding", "gen_ai.prompt.0.content": "x"},
    "an AgentOps agent": {
        "agentops.span.kind": "agent",
        "gen_ai.prompt.0.content": "x",
        "gen_ai.request.model": "m",
    },
    "an OpenInference chain": {"openinference.span.kind": "CHAIN"},
    "a streaming figure": {"llm.openai.stream.chunk_count": 3},
    "an operation": {"agentlightning.operation.output": "text"},
    "an operation with a dict": {"agentlightning.operation.output.score": 1.0},
}


@pytest.mark.parametrize("kind", CALLS)
def test_calls_are_recognised(kind: str):
    """Each convention is enough by itself, under any name."""
    call = read_llm_call(span(**CALLS[kind]))
    assert call is not None
    assert kind.startswith(call.convention)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_spans_are_not(kind: str):
    """Agents, tools, embeddings and the like are no calls, even if they are called so."""
    assert not is_llm_call(span("openai.chat.completion", **OTHERS[kind]))


def test_parts_become_chat_messages():
    """Texts, images, thoughts, calls and results of tools are in the shape of chat completions."""
    call = {"type": "tool_call", "id": "c", "name": "f", "arguments": {"é": 1}}
    parts = [
        {"type": "reasoning", "content": "hm"},
        {"type": "text", "content": "a"},
        {"type": "uri", "uri": "http://i"},
        {"type": "blob", "mime_type": "image/gif", "content": "R0"},
        call,
    ]
    result = {"type": "tool_call_response", "id": "c", "response": {"r": 1}}
    made = chat_messages(
        [
            {"role": "assistant", "parts": parts, "finish_reason": "stop"},
            {"role": "user", "parts": [result, {"type": "text", "content": "and?"}]},
            {"role": "tool", "parts": [{**result, "response": "plain"}]},
            {"role": "user", "content": "as it is"},
            {},
        ]
    )
    function = {"name": "f", "arguments": '{"é": 1}'}
    assert made == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "http://i"}},
                {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0"}},
            ],
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
            "finish_reason": "stop",
        },
        {"role": "tool", "tool_call_id": "c", "content": '{"r": 1}'},
        {"role": "user", "content": "and?"},
        {"role": "tool", "tool_call_id": "c", "content": "plain"},
        {"role": "user", "content": "as it is"},
    ]


def test_images_of_openinference():
    """Parts of contents are read, texts by themselves as texts."""
    prefix = "llm.input_messages.0.message"
    content = f"{prefix}.contents.0.message_content"
    image = f"{prefix}.contents.1.message_content"
    told = {
        "openinference.span.kind": "LLM",
        f"{prefix}.role": "user",
        f"{content}.type": "text",
        f"{content}.text": "look",
    }
    call = read_llm_call(span(**told))
    assert call is not None
    assert call.messages == [{"role": "user", "content": "look"}]
    told |= {f"{image}.type": "image", f"{image}.image.image.url": "http://i"}
    assert to_triplet(span(**told), "*").prompt["image_urls"] == ["http://i"]


keys = st.sampled_from(
    [
        "gen_ai.operation.name",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.prompt.0",
        "gen_ai.prompt.0.role",
        "gen_ai.completion",
        "gen_ai.request.model",
        "gen_ai.response.id",
        "openinference.span.kind",
        "input.value",
        "output.value",
        "llm.tools.0.tool.json_schema",
        "llm.input_messages.0.message.role",
        "llm.output_messages.0.message.tool_calls.0",
        "llm.p.messages",
        "llm.p.choices",
        "agentlightning.operation.output",
        "agentlightning.operation.output.choices",
    ]
)
values = st.sampled_from(
    ["chat", "LLM", "[", "[{}]", "[1]", "{}", '{"choices": [1], "generations": [[1]]}', "[null]"]
) | (st.text(max_size=5) | st.integers() | st.lists(st.integers(), max_size=2))


@given(st.dictionaries(keys, values, max_size=8))
def test_odd_spans_are_read_all_the_same(attributes: dict[str, Any]):
    """Whatever stands in the attributes, reading gives something and never fails."""
    made = span(**attributes)
    read_llm_call(made)
    to_triplet(made, "*")
