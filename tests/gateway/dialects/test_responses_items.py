"""Items of responses as chat messages, and back from answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses_items import (
    open_thought,
    read_items,
    seal_thought,
    to_chat_messages,
)

USER = {"role": "user", "content": "hi"}


def messages(*items: Any, instructions: str | None = None) -> list[Members]:
    return to_chat_messages(instructions, read_items(list(items), lambda _: None))


def call(name: str = "f", call_id: str = "c") -> Members:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{"}


def test_a_text_is_what_a_user_says() -> None:
    """A string and a message with it are the same input."""
    plain = to_chat_messages(None, read_items("hi", lambda _: None))
    part = {"type": "input_text", "text": "hi"}
    assert plain == messages(USER) == messages({"role": "user", "content": [part]}) == [USER]


def test_system_messages_in_a_row_are_one() -> None:
    """Instructions and what developers say come first, as parts of the system's message."""
    said = messages({"role": "developer", "content": "b"}, USER, instructions="a")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert said == [{"role": "system", "content": parts}, USER]
    assert messages(USER, instructions="a")[0] == {"role": "system", "content": "a"}
    later = messages(USER, {"role": "system", "content": "b"})
    assert [it["role"] for it in later] == ["user", "system"]


def test_what_the_assistant_did_in_a_row_is_one_message() -> None:
    """Thoughts, texts and calls up to the next word of others are one turn."""
    said = messages(
        USER,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "T"}]},
        {"role": "assistant", "content": "a"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        call(),
        {"type": "function_call_output", "call_id": "c", "output": "found"},
        {"role": "assistant", "content": "c"},
    )
    function = {"name": "f", "arguments": "{"}
    assert said == [
        USER,
        {
            "role": "assistant",
            "content": "ab",
            "reasoning_content": "T",
            "refusal": "no",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "found"},
        {"role": "assistant", "content": "c"},
    ]
    assert messages(call())[0]["content"] is None


def test_parts() -> None:
    """Images, files and sounds are the parts of chat completions that hold them."""
    said = messages(
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "data:x", "detail": "high"},
                {"type": "input_image", "image_url": "data:y", "detail": "auto", "file_id": None},
                {"type": "input_file", "file_data": "data:z", "filename": "z.pdf"},
                {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            ],
        },
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": "data:x"}],
        },
    )
    assert said[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "data:y"}},
        {"type": "file", "file": {"filename": "z.pdf", "file_data": "data:z"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
    ]
    assert said[1]["content"] == [{"type": "image_url", "image_url": {"url": "data:x"}}]


@given(text=st.text())
def test_thoughts_can_be_sealed(text: str) -> None:
    """What clients cannot read comes back as it was."""
    assert open_thought(seal_thought(text)) == text


def test_others_sealed_thoughts_are_carried() -> None:
    """Encrypted thoughts of another server stay as they are, beside their summary."""
    for sealed in ("gAAAA", "agl.no base64 !", "agl._w=="):
        summary = [{"type": "summary_text", "text": "S"}]
        item = {"type": "reasoning", "summary": summary, "encrypted_content": sealed}
        assert messages(item) == [
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "S",
                "reasoning_details": [{"type": "reasoning.encrypted", "data": sealed}],
            }
        ]


def test_references_are_looked_up() -> None:
    """An item that is remembered stands in the place of its reference, typed or not."""
    known = {"fc_1": {**call(), "id": "fc_1", "status": "completed"}}
    for reference in ({"type": "item_reference", "id": "fc_1"}, {"id": "fc_1"}):
        (item,) = read_items([reference], known.get)
        assert item[1] == known["fc_1"]
    with pytest.raises(RequestError, match="fc_2"):
        read_items([{"id": "fc_2"}], known.get)


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ("text", "input.0"),
        ({"type": "web_search_call", "id": "x"}, "input.0"),
        ({"type": "item_reference"}, "input.0.id"),
        ({"role": "tool", "content": "x"}, "input.0.role"),
        ({"role": "user", "content": None}, "input.0.content"),
        ({"role": "user", "content": "x", "flavour": 1}, "input.0.flavour"),
        ({"role": "user", "content": [{"type": "video"}]}, "input.0.content.0"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}, "input.0.content.0"),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "f"}]},
            "input.0.content.0.file_id",
        ),
        (
            {"role": "user", "content": [{"type": "input_file", "file_url": "f"}]},
            "input.0.content.0.file_url",
        ),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input.0.content.0.text"),
        (
            {"role": "assistant", "content": [{"type": "output_text"}]},
            "input.0.content.0.text",
        ),
        (
            {"role": "system", "content": [{"type": "input_image", "image_url": "x"}]},
            "input.0.content",
        ),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input.0.call_id"),
        ({**call(), "namespace": "n"}, "input.0.namespace"),
        ({"type": "function_call_output", "output": "x"}, "input.0.call_id"),
        ({"type": "function_call_output", "call_id": "c"}, "input.0.output"),
        ({"type": "reasoning", "summary": [{"text": 1}]}, "input.0.summary.0.text"),
        ({"type": "reasoning", "summary": ["x"]}, "input.0.summary.0"),
    ],
)
def test_what_cannot_be_said_is_refused(item: Any, where: str) -> None:
    """A 400 names the place of what chat completions have no word for."""
    with pytest.raises(RequestError) as caught:
        messages(item)
    assert (caught.value.status, caught.value.param) == (400, where)


def test_nothing_is_no_input() -> None:
    """A request without an item is refused, before a model server does."""
    for given_input in ([], None, 5):
        with pytest.raises(RequestError, match="input"):
            to_chat_messages(None, read_items(given_input, lambda _: None))
