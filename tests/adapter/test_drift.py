"""Naming why an answer is shown in other tokens."""

import pytest

from agentlightning.adapter.drift import drift_cause, has_other_tools
from agentlightning.adapter.token_row import ForkCause
from agentlightning.types.call import CallChoice, CallRecord

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": "é"}}\n</tool_call><end>'


def later(*messages, tools=(), **fields):
    request = {"messages": [{"role": "user", "content": "x"}, *messages], "tools": list(tools)}
    times = {"start_time": 0.0, "end_time": 1.0}
    return CallRecord(
        call_id="c", rollout_id="r", attempt_id="a", request=request, **times, **fields
    )


def said(content, *arguments):
    calls = [{"function": {"name": "f", "arguments": text}} for text in arguments]
    return {"role": "assistant", "content": content, "tool_calls": calls}


@pytest.mark.parametrize(
    ("answer", "shown", "cause"),
    [
        ("having<end>", "having<end>\n<user>", ForkCause.RETOKEN),
        (" a  b<end>", "a b<end>\n<user>", ForkCause.WHITESPACE),
        (CALL, CALL.replace('"a": 1, "b": "é"', '"b":"\\u00e9","a":1') + "x", ForkCause.TOOL_JSON),
        ("<think>so</think>Yes<end>", "Yes<end>\n<user>", ForkCause.TEMPLATE),
        ("{ broken<end>", "} broken<end>", ForkCause.TEMPLATE),
    ],
)
def test_texts_tell_the_cause(answer, shown, cause):
    """Equal text, blanks, spelling of JSON, and what is none of these."""
    assert drift_cause(answer, shown, choice=CallChoice(), call=later()) == cause


def test_a_cut_answer_is_named_as_such():
    """An answer that hit its limit cannot be rendered again."""
    cut = CallChoice(finish_reason="length")
    assert drift_cause("<think>so", "<end>", choice=cut, call=later()) == ForkCause.TRUNCATED


def test_messages_tell_an_edit_from_the_templates_work():
    """Where the client sent the answer back, the template changed it; otherwise the client did."""
    choice = CallChoice(message=said("<think>so</think>Yes", '{"a": 1, "b": 2}'))
    echoed = later(said([{"type": "text", "text": "Yes"}], '{"b":2,"a":1}'))
    edited = later(said("No", '{"a": 1, "b": 2}'))
    assert drift_cause("x<end>", "y<end>", choice=choice, call=echoed) == ForkCause.TEMPLATE
    assert drift_cause("x<end>", "y<end>", choice=choice, call=edited) == ForkCause.EDITED


def test_tools_belong_to_the_agent_that_has_them():
    """Other tools under the same first message are a change; another agent is not."""
    one, other = later(tools=["f"]), later(tools=["g"])
    assert has_other_tools(one, other)
    assert not has_other_tools(one, later(tools=["f"]))
    translated = later(chat_request={"messages": [{"role": "system", "content": "s"}]})
    assert not has_other_tools(one, translated)
