"""Parameters and tools of other formats as those of chat completions."""

from typing import Any

import pytest

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.chat_request import Parameters, let_think, tools_of
from agentlightning.gateway.dialects.request_check import Members

PARAMETERS = Parameters(
    same=frozenset({"model", "seed"}),
    converters={"limit": lambda value: {"max_tokens": value}},
    others=frozenset({"user"}),
    neutral={"odd": (False,)},
)


def test_parameters_are_said_in_chats_words() -> None:
    """Some keep their name, some get another, some stay behind, and streams want usage."""
    request = {"model": "m", "limit": 5, "user": "u", "odd": False, "seed": None, "stream": True}
    assert PARAMETERS.convert(request, [{"role": "user"}]) == {
        "model": "m",
        "seed": None,
        "max_tokens": 5,
        "messages": [{"role": "user"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert PARAMETERS.convert({"limit": None, "stream": False}, []) == {"messages": []}


@pytest.mark.parametrize("members", [{"odd": True}, {"flavour": "sweet"}])
def test_what_has_no_counterpart_is_refused(members: Members) -> None:
    """A parameter that could change the answer is not left out."""
    with pytest.raises(RequestError) as caught:
        PARAMETERS.convert(members, [])
    assert caught.value.param == next(iter(members))


def test_tools() -> None:
    """Each tool is a function; none at all are no tools."""

    def describe(where: str, tool: Members) -> Members:
        return {"name": where, **tool}

    assert tools_of([], describe) == {}
    assert tools_of([{"a": 1}], describe) == {
        "tools": [{"type": "function", "function": {"name": "tools.0", "a": 1}}]
    }
    wrong: list[Any] = [{}, [1], "x", None]
    for tools in wrong:
        with pytest.raises(RequestError, match="tools"):
            tools_of(tools, describe)


def test_the_clients_word_on_thoughts_counts() -> None:
    """A template is told what the client wants, in the client's own words if it has any."""
    chat: Members = {}
    let_think(chat, False)
    let_think(chat, True)
    assert chat["chat_template_kwargs"] == {"enable_thinking": False}
