"""Strategies that draw chats, right ones and wrong ones, and attributes that tell of chats."""

import json

from hypothesis import strategies as st

NAMES = [
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.request",
    "gen_ai.request.functions",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "llm.input_messages",
    "llm.output_messages",
    "llm.tools",
    "agentlightning.operation.input.messages",
    "agentlightning.operation.output.choices",
    "tool",
]
KEYS = [*"012", "role", "content", "contents", "message", "message_content", "tool_calls", "id"]
KEYS += ["name", "function", "functions", "arguments", "tool_call_id", "parts", "type", "text"]
KEYS += ["tool_call", "image_url", "url", "parameters", "refusal", "json_schema", "input"]
KINDS = [
    "text",
    "image_url",
    "image",
    "input_audio",
    "file",
    "tool_use",
    "tool_result",
    "tool_call",
]
KINDS += ["tool_call_response", "thinking", "refusal", "function_call_output", "never heard of"]
ROLES = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "human",
    "ai",
    "model",
    "x",
]
texts = st.sampled_from([*ROLES, *KINDS, "", "[1]", '{"a": 1}', "[{", "c1", "c2"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.floats(), texts)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={
        "text": scalars,
        "image_url": scalars | st.just({"url": "http://h/i.png", "detail": "low"}),
        "source": st.just({"type": "base64", "media_type": "image/png", "data": "AA=="}) | scalars,
        "input_audio": st.just({"data": "AA==", "format": "wav"}) | scalars,
        "file": st.just({"file_id": "f"}) | scalars,
        "id": scalars,
        "call_id": scalars,
        "tool_use_id": scalars,
        "name": scalars,
        "input": st.just({"a": 1}) | scalars,
        "content": scalars,
        "response": scalars | st.just({"a": [1]}),
        "refusal": scalars,
    },
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "id": scalars,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({}, optional={"name": texts, "arguments": scalars}),
        "name": scalars,
        "arguments": scalars | st.just({"a": 1}),
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(ROLES) | scalars,
        "content": scalars | st.lists(parts | texts, max_size=3) | parts,
        "parts": st.lists(parts, max_size=3) | scalars,
        "tool_calls": st.lists(calls, max_size=3) | calls | scalars,
        "function_call": calls | scalars,
        "tool_call_id": scalars,
        "name": scalars,
        "reasoning_content": scalars,
        "refusal": scalars,
    },
)
chats = st.lists(messages, max_size=5)
values = st.one_of(scalars, st.lists(texts), st.lists(st.integers()), chats.map(json.dumps))
keys = st.builds(
    lambda prefix, path: ".".join([prefix, *path]),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(KEYS), max_size=5),
)
ids = st.sampled_from("abcd")
events = st.lists(
    st.tuples(
        st.sampled_from(["gen_ai.user.message", "gen_ai.tool.message", "gen_ai.choice", "x"]),
        st.dictionaries(
            st.sampled_from(["content", "role", "message", "id"]), values.filter(bool), max_size=3
        ),
    ),
    max_size=3,
)
spans = st.lists(
    st.tuples(ids, st.none() | ids, st.dictionaries(keys, values, max_size=12), events), max_size=4
)
