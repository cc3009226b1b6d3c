"""Messages of Anthropic's format as messages of chat completions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.anthropic_blocks import INVALID_JSON, to_chat_messages

HI = {"role": "user", "content": "hi"}
CACHED = {"cache_control": {"type": "ephemeral"}}


def text(said: str, **members: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **members}


def result(name: str, content: Any = "ok", **members: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": content, **members}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, []),
        ([], []),
        ("Be brief.", ["Be brief."]),
        ([text("Be brief.", **CACHED)], ["Be brief."]),
        ([text("a"), text("b")], [[text("a"), text("b")]]),
        ([text("x-anthropic-billing-header: v=1; h=abc"), text("b")], ["b"]),
    ],
)
def test_system(system: Any, expected: list[Any]) -> None:
    """A system prompt becomes the first message; what only bills is left out."""
    messages = to_chat_messages(system, [HI])
    assert messages == [*({"role": "system", "content": said} for said in expected), HI]


def test_one_text_is_the_same_however_it_is_written() -> None:
    """A text and a list of one text block give the same prompt, cached or not."""
    written = [[HI], [user(text("hi"))], [user(text("hi", **CACHED))]]
    assert all(to_chat_messages(None, messages) == [HI] for messages in written)


def test_a_turn_of_several_messages() -> None:
    """Messages of one role in a row are one turn, their texts in order."""
    turn = [HI, user(text("there"), text("!"))]
    parts = [text("hi"), text("there"), text("!")]
    assert to_chat_messages(None, turn) == [{"role": "user", "content": parts}]


def test_system_messages_in_between() -> None:
    """A system message within the conversation keeps its place."""
    messages = to_chat_messages("one", [HI, {"role": "system", "content": "two"}, HI])
    assert [message["role"] for message in messages] == ["system", "user", "system", "user"]


def test_tool_results_come_before_the_texts_of_their_turn() -> None:
    """Results directly follow the calls that they answer, in order; texts come after, in order."""
    calls = [{"type": "tool_use", "id": n, "name": "f", "input": {}} for n in "ab"]
    said = user(text("one"), result("a"), text("two"), result("b", [text("B")]))
    messages = to_chat_messages(None, [HI, assistant(*calls), said])
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
        {"role": "tool", "tool_call_id": "b", "content": "B"},
        {"role": "user", "content": [text("one"), text("two")]},
    ]


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (result("a", None), ""),
        (result("a", ""), ""),
        (result("a", [text("x"), text("y")]), [text("x"), text("y")]),
        (result("a", "no file", is_error=True), "Error: no file"),
        (result("a", "fine", is_error=False), "fine"),
        (
            result("a", [text("x"), text("y")], is_error=True),
            [text("Error:"), text("x"), text("y")],
        ),
        (
            result("a", [{"type": "image", "source": {"type": "url", "url": "http://x/y"}}]),
            [{"type": "image_url", "image_url": {"url": "http://x/y"}}],
        ),
    ],
)
def test_contents_of_tool_results(block: dict[str, Any], content: Any) -> None:
    """Nested content keeps its parts, and the model is told of an error."""
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    tool = to_chat_messages(None, [HI, assistant(call), user(block)])[2]
    assert tool == {"role": "tool", "tool_call_id": "a", "content": content}


def test_assistant_turn() -> None:
    """Thoughts, texts and calls of an assistant's turn have their places in one message."""
    turn = assistant(
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        text("one "),
        {"type": "thinking", "thinking": ", well", "signature": "s"},
        text("two", citations=None),
        {"type": "tool_use", "id": "a", "name": "f", "input": {"q": "é"}, **CACHED},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}, "caller": {"type": "direct"}},
    )
    assert to_chat_messages(None, [HI, turn, user(result("a"), result("b"))])[1] == {
        "role": "assistant",
        "content": "one two",
        "reasoning_content": "Hm, well",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}],
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"q": "é"}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


def test_calls_without_a_text_have_null_content() -> None:
    """As servers of chat completions answer."""
    turn = assistant({"type": "tool_use", "id": "a", "name": "f", "input": {}})
    assert to_chat_messages(None, [HI, turn, user(result("a"))])[1]["content"] is None


@given(st.text())
def test_arguments_that_were_no_object_come_back(written: str) -> None:
    """What stood in for arguments that are no JSON object becomes those arguments again."""
    turn = assistant({"type": "tool_use", "id": "a", "name": "f", "input": {INVALID_JSON: written}})
    (call,) = to_chat_messages(None, [HI, turn, user(result("a"))])[1]["tool_calls"]
    assert call["function"]["arguments"] == written


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.floats(allow_nan=False)))
def test_tool_input_is_kept(given_input: dict[str, Any]) -> None:
    """A tool's input is the same as JSON text."""
    turn = assistant({"type": "tool_use", "id": "a", "name": "f", "input": given_input})
    (call,) = to_chat_messages(None, [HI, turn, user(result("a"))])[1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == given_input


def source(kind: str, **members: Any) -> dict[str, Any]:
    return {"source": {"type": kind, **members}}


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (
            {"type": "image", **source("base64", media_type="image/png", data="AA==")},
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}],
        ),
        (
            {"type": "document", **source("text", media_type="text/plain", data="body")},
            [text("body")],
        ),
        (
            {
                "type": "document",
                "title": "T",
                "context": "C",
                "citations": {"enabled": False},
                **source("content", content=[text("a"), text("b")]),
            },
            [text("T"), text("C"), text("a"), text("b")],
        ),
        (
            {
                "type": "document",
                "title": "t.pdf",
                **source("base64", media_type="application/pdf", data="AA=="),
            },
            [
                text("t.pdf"),
                {
                    "type": "file",
                    "file": {
                        "filename": "t.pdf",
                        "file_data": "data:application/pdf;base64,AA==",
                    },
                },
            ],
        ),
    ],
)
def test_images_and_documents(block: dict[str, Any], parts: list[Any]) -> None:
    """Images and documents become parts, beside the text that they came with."""
    (message,) = to_chat_messages(None, [user(text("see"), block)])
    assert message["content"] == [text("see"), *parts]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        (None, "messages"),
        ([], "messages"),
        ([{"role": "tool", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{**HI, "name": "bob"}], "messages.0.name"),
        ([user({"type": "container_upload", "file_id": "f"})], "messages.0.content.0"),
        ([user("text")], "messages.0.content.0"),
        ([user(text("x", flavour=1))], "messages.0.content.0.flavour"),
        (
            [user(text("x", citations=[{"type": "char_location"}]))],
            "messages.0.content.0.citations",
        ),
        ([user({"type": "text"})], "messages.0.content.0.text"),
        ([user({"type": "image", "source": {"type": "file", "file_id": "f"}})], ".source"),
        ([user({"type": "document", "source": {"type": "url", "url": "u"}})], ".source"),
        ([user({"type": "image"})], "messages.0.content.0.source"),
        ([user({"type": "tool_use", "id": "a", "name": "f", "input": {}})], "messages.0.content.0"),
        ([HI, assistant(result("a")), HI], "messages.1.content.0"),
        ([HI, assistant({"type": "tool_use", "id": "a", "name": "f", "input": []}), HI], ".input"),
        ([user(result("a", [{"type": "tool_reference", "tool_name": "f"}]))], ".content.0"),
        ([user(result("a", [result("b")]))], ".content.0"),
        ([HI, assistant(text("The answer is"))], "messages"),
    ],
)
def test_what_cannot_be_said_is_refused(messages: Any, where: str) -> None:
    """A block, or a member of one, without a counterpart is an error that names its place."""
    with pytest.raises(RequestError) as caught:
        to_chat_messages(None, messages)
    assert caught.value.status == 400
    assert (caught.value.param or "").endswith(where)
    assert str(caught.value).startswith(caught.value.param or "?")
