"""Responses requests as chat requests: every parameter, and what is refused."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses_items import read_items
from agentlightning.gateway.dialects.responses_request import to_chat_request

TOOL: Members = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def chat(*, trained: bool = True, **members: Any) -> Members:
    """Return the chat request of a Responses request, less its messages."""
    request = {"model": "m", "input": "hi", **members}
    items = read_items(request["input"], lambda _: None)
    asked = to_chat_request(request, items, trained=trained)
    messages = asked.pop("messages")
    assert messages == [{"role": "user", "content": "hi"}]
    assert asked.pop("model") == "m"
    return asked


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ({"max_output_tokens": 5, "temperature": 0.5}, {"max_tokens": 5, "temperature": 0.5}),
        ({"stop": ["a"], "seed": 3}, {"stop": ["a"], "seed": 3}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
            {"logprobs": True, "top_logprobs": 3},
        ),
        ({"top_logprobs": 3, "include": ["reasoning.encrypted_content"]}, {}),
        ({"truncation": "auto", "store": False, "metadata": {"a": "b"}, "user": "u"}, {}),
        ({"background": False, "service_tier": "flex", "max_tool_calls": 3}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"stream_options": {"include_obfuscation": False}, "previous_response_id": None}, {}),
        ({"reasoning": {"summary": "auto", "context": "auto", "mode": "standard"}}, {}),
    ],
)
def test_parameters(members: Members, asked: Members) -> None:
    """Parameters go by their names in chat completions; those that change nothing stay behind."""
    assert chat(**members) == asked


def test_tools() -> None:
    """A flat function becomes a nested one, with what is said of it and no more."""
    described = {**TOOL, "description": "d", "strict": True, "defer_loading": False}
    asked = chat(tools=[TOOL, described], parallel_tool_calls=False, tool_choice="required")
    function = {"name": "f", "parameters": {"type": "object"}}
    assert asked == {
        "tools": [
            {"type": "function", "function": function},
            {"type": "function", "function": {**function, "description": "d", "strict": True}},
        ],
        "parallel_tool_calls": False,
        "tool_choice": "required",
    }


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        ("none", "none"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
        ),
    ],
)
def test_tool_choices(choice: Any, asked: Any) -> None:
    """A choice of tool is said as chat completions say it."""
    assert chat(tools=[TOOL], tool_choice=choice)["tool_choice"] == asked


@pytest.mark.parametrize(
    ("effort", "trained", "asked"),
    [
        ("minimal", False, {"reasoning_effort": "low"}),
        ("xhigh", False, {"reasoning_effort": "high"}),
        ("none", False, {"reasoning_effort": "none"}),
        ("none", True, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "medium",
            True,
            {"reasoning_effort": "medium", "chat_template_kwargs": {"enable_thinking": True}},
        ),
    ],
)
def test_effort(effort: str, trained: bool, asked: Members) -> None:
    """A level of effort is one that chat servers know, and thoughts are turned on or off."""
    assert chat(reasoning={"effort": effort}, trained=trained) == asked


def test_a_clients_own_word_on_thoughts_counts() -> None:
    """What the client says to the template is not overruled."""
    asked = chat(
        reasoning={"effort": "low"},
        chat_template_kwargs={"enable_thinking": False},
    )
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools.0"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"flavour": "sweet"}}, "text.flavour"),
        ({"reasoning": {"effort": "most"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"include": ["something.else"]}, "include.0"),
        ({"include": "x"}, "include"),
        ({"truncation": "some"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"instructions": ["x"]}, "instructions"),
        ({"flavour": "sweet"}, "flavour"),
    ],
)
def test_what_cannot_be_done_is_refused(members: Members, where: str) -> None:
    """A 400 names the place of what chat completions have no word for."""
    with pytest.raises(RequestError) as caught:
        chat(**members)
    assert (caught.value.status, caught.value.param) == (400, where)
    assert str(caught.value).startswith(f"{where}: ")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["function"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "name", "effort", "format", "tools"]), inner)
        | st.dictionaries(st.sampled_from(["role", "content", "id", "call_id", "output"]), inner)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(
    key=st.sampled_from(
        ["input", "tools", "tool_choice", "text", "reasoning", "include", "instructions"]
    ),
    value=json_values,
)
def test_nonsense_is_the_clients_mistake(key: str, value: Any) -> None:
    """Whatever stands in a member, the request is translated or refused, and nothing else."""
    request = {"model": "m", "input": "hi", key: value}
    with contextlib.suppress(RequestError):
        items = read_items(request["input"], lambda _: None)
        assert to_chat_request(request, items, trained=True)["messages"]
