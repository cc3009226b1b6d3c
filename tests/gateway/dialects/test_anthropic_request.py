"""Parameters and tools of Anthropic's format as those of chat completions."""

from typing import Any

import pytest

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.anthropic_request import to_chat_request

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"name": "f", "description": "Does f.", "input_schema": SCHEMA}


def asked(*, trained: bool = True, **members: Any) -> dict[str, Any]:
    """Return what parameters add to a request for chat completions."""
    chat = to_chat_request({**ASK, **members}, trained=trained)
    return {key: value for key, value in chat.items() if ASK.get(key) != value}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"max_tokens": 5, "temperature": 0.0}, {"max_tokens": 5, "temperature": 0.0}),
        ({"top_p": 0.5, "top_k": 4, "seed": 3}, {"top_p": 0.5, "top_k": 4, "seed": 3}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {}),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto"}, {}),
        ({"cache_control": {"type": "ephemeral"}}, {}),
        ({"container": None, "mcp_servers": []}, {}),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
            {},
        ),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"tool_choice": {"type": "tool", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
    ],
)
def test_parameters(members: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each parameter has its counterpart, or changes no answer and has none."""
    assert asked(**members) == expected


def test_tools() -> None:
    """Tools become functions; what only concerns how they are sent is left out."""
    tools = [{**TOOL, "type": "custom", "strict": True, "cache_control": {}}, TOOL]
    function = {"name": "f", "description": "Does f.", "parameters": SCHEMA}
    assert asked(tools=[{**tools[0], "eager_input_streaming": True}, tools[1]]) == {
        "tools": [
            {"type": "function", "function": {**function, "strict": True}},
            {"type": "function", "function": function},
        ]
    }
    assert asked(tools=[]) == {}


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_structured_output(name: str) -> None:
    """A schema for the answer is passed on, under the older name as well."""
    wanted = {"type": "json_schema", "schema": SCHEMA}
    said = asked(**{name: {"format": wanted} if name == "output_config" else wanted})
    described = {"name": "answer", "schema": SCHEMA, "strict": True}
    assert said == {"response_format": {"type": "json_schema", "json_schema": described}}


@pytest.mark.parametrize(
    ("thinking", "thinks"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, True),
        ({"type": "adaptive", "display": "omitted"}, True),
        ({"type": "disabled"}, False),
    ],
)
def test_thinking(thinking: dict[str, Any], thinks: bool) -> None:
    """A trained model's template is told whether to think; others would not know the member."""
    assert asked(thinking=thinking) == {"chat_template_kwargs": {"enable_thinking": thinks}}
    own = {"enable_thinking": not thinks, "x": 1}
    assert asked(thinking=thinking, chat_template_kwargs=own) == {"chat_template_kwargs": own}
    assert asked(thinking=thinking, trained=False) == {}


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"flavour": "sweet"}, "flavour"),
        ({"n": 2}, "n"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [{"input_schema": SCHEMA}]}, "tools.0.name"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools.0.input_examples"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        ({"thinking": True}, "thinking"),
        ({"system": 3}, "system"),
    ],
)
def test_what_cannot_be_asked_is_refused(members: dict[str, Any], where: str) -> None:
    """A parameter without a counterpart that could change the answer is an error."""
    with pytest.raises(RequestError) as caught:
        asked(**members)
    assert caught.value.status == 400
    assert (caught.value.param or "").startswith(where)
