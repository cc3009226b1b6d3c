"""Reading chat answers, whatever shape a server gives them."""

import pytest

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.chat_parts import (
    assistant_message,
    cached_tokens,
    calls_of,
    first_choice,
    read_answer,
    sse,
    text_of,
    thought_of,
)
from agentlightning.types.call import CallChoice


def test_texts_and_thoughts() -> None:
    """Texts may come in parts, and thoughts under either name, not both."""
    assert text_of({"content": "a"}) == "a"
    assert text_of({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}) == "ab"
    assert text_of({"content": None}) == text_of({}) == ""
    assert thought_of({"reasoning": "a"}) == "a"
    assert thought_of({"reasoning_content": "a", "reasoning": "a"}) == "a"
    assert thought_of({"reasoning_content": None}) == ""


def test_calls_have_ids() -> None:
    """A call that the server gave no id gets one, so that its result can name it."""
    function = {"name": "f", "arguments": "{}"}
    message = {"tool_calls": [{"id": "x", "function": function}, {"function": function}]}
    captured = CapturedAnswer(choices=[CallChoice(message=message)])
    assert [call["id"] for call in calls_of(captured)] == ["x", "call_1"]
    assert calls_of(CapturedAnswer()) == []


def test_counts_of_cached_tokens() -> None:
    """Servers that say nothing of a cache used none."""
    assert cached_tokens({"prompt_tokens_details": {"cached_tokens": 3}}) == 3
    assert cached_tokens({"prompt_tokens_details": None}) == cached_tokens({}) == 0


def test_answers_that_are_none() -> None:
    """What is no object, or has no choice, is the server's error."""
    assert read_answer(b'{"a": 1}') == {"a": 1}
    for data in (b"", b"[]", b'{"a": '):
        with pytest.raises(UpstreamError):
            read_answer(data)
    assert first_choice({"choices": [{"index": 0}]}) == {"index": 0}
    for answer in ({}, {"choices": []}, {"choices": None}):
        with pytest.raises(UpstreamError):
            first_choice(answer)


def test_a_turn_is_one_message() -> None:
    """Content is null for calls without a text, and empty members are not there."""
    assert assistant_message([], [], []) == {"role": "assistant", "content": ""}
    call = {"id": "c"}
    assert assistant_message([], ["a", "b"], [call], refusal="", other=[1]) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "ab",
        "tool_calls": [call],
        "other": [1],
    }
    assert assistant_message(["a", "b"], [], [call])["content"] == "ab"


def test_events_are_named() -> None:
    """An event says its type in its own line as well."""
    assert (
        sse({"type": "ping", "a": "é\n"})
        == 'event: ping\ndata: {"type":"ping","a":"é\\n"}\n\n'.encode()
    )
