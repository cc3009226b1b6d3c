"""Streamed tool calls are told one after another, as early as can be."""

import json
from typing import Any

from agentlightning.gateway.dialects.anthropic_blocks import INVALID_JSON
from agentlightning.gateway.dialects.anthropic_calls import StreamedCalls


def piece(at: int | None, arguments: Any = "", name: str = "", call_id: str = "") -> dict[str, Any]:
    number = {} if at is None else {"index": at}
    return {**number, "id": call_id, "function": {"name": name, "arguments": arguments}}


def test_a_call_is_told_as_it_comes() -> None:
    """Begin, pieces and end follow the chunks; the last brace waits for the end."""
    calls = StreamedCalls()
    assert calls.take(piece(0, name="f", call_id="a")) == [("begin", {"id": "a", "name": "f"})]
    assert calls.take(piece(0, '{"q": "x')) == [("input", '{"q": "x')]
    assert calls.end_whole() == []
    assert calls.take(piece(0, 'y"}')) == [("input", 'y"')]
    assert calls.end_whole() == [("end", "}")]
    assert calls.end() == []
    assert (calls.begun, calls.is_open) == (1, False)


def test_a_call_waits_for_those_before_it() -> None:
    """The second begins when the first is whole, and is told with all that came meanwhile."""
    calls = StreamedCalls()
    assert calls.take(piece(1, '{"b"', name="g")) == []
    begun = calls.take(piece(0, '{"a": [1', name="f"))
    assert begun == [("begin", {"id": "call_0", "name": "f"}), ("input", '{"a": [')]
    assert calls.take(piece(1, ": 2")) == []
    assert calls.take(piece(0, "]}")) == [("input", "1]")]
    assert calls.take(piece(1, "}")) == [
        ("end", "}"),
        ("begin", {"id": "call_1", "name": "g"}),
        ("input", '{"b": 2'),
    ]
    assert calls.end() == [("end", "}")]


def test_a_call_without_a_name_is_not_begun() -> None:
    """A block begins with its name, so what comes before the name waits."""
    calls = StreamedCalls()
    assert calls.take(piece(0, '{"a"')) == []
    begin, told = calls.take(piece(0, ": 1", name="f"))
    assert (begin[0], told) == ("begin", ("input", '{"a": '))


def test_calls_that_are_told_whole() -> None:
    """Calls without a number, or with arguments as objects, are not begun, nor any after them."""
    for first in (piece(None, "{}", name="f"), piece(0, {"a": 1}, name="f")):
        calls = StreamedCalls()
        assert calls.take(first) == []
        assert calls.take(piece(0, "{}", name="g")) == []
        assert calls.begun == 0


def test_a_call_that_is_cut_off_holds_its_text() -> None:
    """Arguments that break off end as an object that nobody acts on."""
    calls = StreamedCalls()
    steps = [*calls.take(piece(0, '{"cmd": "rm', name="sh")), *calls.end()]
    told = json.loads("".join(str(step[1]) for step in steps if step[0] != "begin"))
    assert told == {"cmd": None, INVALID_JSON: '{"cmd": "rm'}
