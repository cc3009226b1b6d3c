"""What a request says of tools."""

from typing import Any

import pytest

from agentlightning.engine.tool_choice import read_tool_choice
from agentlightning.errors import RequestError


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


A, B, C = tool("a"), tool("b"), tool("c")
TOOLS = (A, B, C)


def allowed(mode: str, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


@pytest.mark.parametrize(
    ("said", "tools", "shown", "finds", "forced", "name"),
    [
        (None, (), (), False, False, None),
        (None, TOOLS, TOOLS, True, False, None),
        ("auto", TOOLS, TOOLS, True, False, None),
        ("none", TOOLS, TOOLS, False, False, None),
        ("required", TOOLS, TOOLS, True, True, None),
        ("required", (B,), (B,), True, True, "b"),
        (B, TOOLS, TOOLS, True, True, "b"),
        (allowed("auto", C, A), TOOLS, (A, C), True, False, None),
        (allowed("required", C, A), TOOLS, (A, C), True, True, None),
        (allowed("required", C), TOOLS, (C,), True, True, "c"),
    ],
)
def test_choices(said: Any, tools: Any, shown: Any, finds: bool, forced: bool, name: str) -> None:
    """What is shown, whether calls are found, and which must be made."""
    choice = read_tool_choice({"tool_choice": said}, tools)
    assert (choice.tools, choice.finds_calls) == (shown, finds)
    assert (choice.is_forced, choice.name) == (forced, name)
    named = tuple(each for each in shown if each["function"]["name"] == name)
    assert choice.only_named == (named or shown)


@pytest.mark.parametrize(
    ("said", "tools"),
    [
        ("required", ()),
        (tool("absent"), TOOLS),
        ({"type": "function"}, TOOLS),
        ({"type": "function", "function": {"name": 3}}, TOOLS),
        ("any", TOOLS),
        (3, TOOLS),
        (allowed("auto", tool("absent")), TOOLS),
        (allowed("auto"), TOOLS),
        (allowed("auto", "a"), TOOLS),
        (allowed("sometimes", A), TOOLS),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": {}}}, TOOLS),
    ],
)
def test_what_makes_no_sense_is_refused(said: Any, tools: Any) -> None:
    """A 400 that names the field, as of OpenAI."""
    with pytest.raises(RequestError) as caught:
        read_tool_choice({"tool_choice": said}, tools)
    assert caught.value.status == 400
    assert caught.value.param in ("tool_choice", "tools")
