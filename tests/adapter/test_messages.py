"""Any spans give valid transcripts, and the right ones."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.adapter import TraceToMessages
from agentlightning.adapter.messages import convert_to_openai_messages, group_genai_dict
from agentlightning.types import CallChoice, Event
from tests.support.chat_schema import assert_valid_messages, assert_valid_tools
from tests.support.chat_strategies import calls, chats, messages, spans
from tests.support.spans import make_call, make_llm_span, make_span


def test_one_call():
    """A chat completion becomes its prompt and its answer."""
    assert TraceToMessages()([make_span("x"), make_llm_span("a")]) == [
        {
            "messages": [
                {"role": "user", "content": "question"},
                {"role": "assistant", "content": "answer of a"},
            ],
            "tools": None,
        }
    ]


def test_tool_calls_come_from_child_spans():
    """The answer's tool calls are those that ran below the call; definitions are kept."""
    parent = make_llm_span(
        "a",
        gen_ai__completion__0__content=None,
        gen_ai__completion__0__finish_reason="tool_calls",
        gen_ai__request__functions__0__name="add",
        gen_ai__request__functions__0__parameters='{"type": "object"}',
    )
    tool = make_span(
        "t",
        "a",
        name="tool_call.add",
        tool__name="add",
        tool__parameters='{"x": 1}',
        tool__call__id="call-1",
        tool__call__type="function",
    )
    (transcript,) = TraceToMessages().adapt([parent, tool])
    assert transcript["messages"][-1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call-1",
                "type": "function",
                "function": {"name": "add", "arguments": '{"x": 1}'},
            }
        ],
    }
    assert transcript["tools"] == [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    ]


def test_turns_without_role():
    """Earlier turns that lack their role, as some instrumentations write, are no error."""
    span = make_llm_span(
        "a",
        gen_ai__prompt__1__tool_calls__0__id="1",
        gen_ai__prompt__1__tool_calls__0__name="add",
        gen_ai__prompt__1__tool_calls__0__arguments="{}",
        gen_ai__prompt__2__content="3",
        gen_ai__prompt__2__tool_call_id="1",
    )
    (transcript,) = TraceToMessages().adapt([span])
    assert [m["role"] for m in transcript["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_captured_calls_win_and_judges_are_left_out():
    """The gateway's record replaces the client's span of the same call; judges teach nothing."""
    answer = CallChoice(message={"role": "assistant", "content": "answer"})
    definition = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = {"messages": [{"role": "user", "content": "q"}], "tools": [definition]}
    spans = [
        make_llm_span("a", gen_ai__response__id="resp-ca-1"),
        make_call("ca-1", choices=[answer], request=request).to_span(),
        make_llm_span("b", gen_ai__response__id="resp-ca-2"),
        make_call("ca-2", trained=False).to_span(),
        make_call("ca-3", outcome="cancelled").to_span(),
    ]
    assert TraceToMessages().adapt(spans) == [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "answer"},
            ],
            "tools": [definition],
        }
    ]


def test_module_functions():
    """The parts that 0.3.0 offers by name work on plain data."""
    assert group_genai_dict({"a.0.b": 1, "other": 2}, "a") == [{"b": 1}]
    call = {"prompt": "q", "completion": [{"content": "a"}]}
    (transcript,) = convert_to_openai_messages([call, {}])
    assert transcript["messages"][-1] == {"role": "assistant", "content": "a"}


def test_a_role_that_is_no_text_is_inferred():
    """A role of another type is treated as a missing one."""
    span = make_span("a", None)
    span.attributes = {"gen_ai.prompt.0.role": ["user"], "gen_ai.completion.0.content": "yes"}
    (transcript,) = TraceToMessages().adapt([span])
    assert_valid(transcript)


@settings(max_examples=80)
@given(spans, st.booleans())
def test_any_spans_give_valid_transcripts(drawn, per_conversation):
    """Whatever the spans hold, there is no error and every transcript is a valid one."""
    made = []
    for span_id, parent, attributes, told in drawn:
        span = make_span(span_id, parent)
        span.attributes = attributes
        span.events = [Event(name=name, attributes=said) for name, said in told]
        made.append(span)
    for transcript in TraceToMessages(per_conversation=per_conversation).adapt(made):
        assert_valid(transcript)


@settings(max_examples=150)
@given(chats, messages, st.lists(calls, max_size=3), st.booleans())
def test_any_call_gives_a_valid_transcript(chat, answer, tools, is_translated):
    """Whatever clients sent and servers said, the transcript of the recorded call is valid."""
    request = {"messages": chat, "tools": tools}
    native = {"chat_request": request} if is_translated else {"request": request}
    call = make_call("ca-1", choices=[CallChoice(message=answer)], **native)
    span = call.to_span()
    for transcript in TraceToMessages().adapt([span]):
        assert_valid(transcript)


def assert_valid(transcript):
    json.dumps(transcript)
    assert_valid_messages(transcript["messages"])
    assert_valid_tools(transcript["tools"])
    assert transcript["messages"][-1]["role"] == "assistant"
