"""Conversations end with the calls that nobody goes on from."""

from agentlightning.adapter.chat_call import find_chat_calls
from agentlightning.adapter.conversation import continued_calls, last_calls
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.types import CallChoice
from tests.support.spans import make_call

QUESTION = {"role": "user", "content": "q1"}
ANSWER = {"role": "assistant", "content": "a1"}
AGAIN = {"role": "user", "content": "q2"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def call(name, messages, answer, **request):
    choice = CallChoice(message={"role": "assistant", **answer})
    return make_call(name, choices=[choice], request={"messages": messages, **request}).to_span()


def names(calls):
    return [each.span_id for each in calls]


def test_only_the_last_turn_is_kept():
    """A later turn holds the earlier one, even if servers and clients add members to messages."""
    first = call("ca-1", [QUESTION], {"content": "a1", "reasoning_content": "hm", "x": 1})
    second = call("ca-2", [QUESTION, ANSWER, AGAIN], {"content": "a2"})
    calls = find_chat_calls([first, second], reasoning=True)
    assert names(last_calls(calls)) == ["2"]
    assert names(continued_calls(calls)[1]) == ["1"]
    both = TraceToMessages(per_conversation=True).adapt([first, second])
    assert [len(transcript["messages"]) for transcript in both] == [4]


def test_forks_other_tools_and_equal_samples_are_kept():
    """A branch, a turn under other tools, and a repeated sample are conversations of their own."""
    spans = [
        call("ca-1", [QUESTION], {"content": "a1"}),
        call("ca-2", [QUESTION], {"content": "a1"}),
        call("ca-3", [QUESTION], {"content": "b"}),
        call("ca-4", [QUESTION, {"role": "assistant", "content": "b"}, AGAIN], {}, tools=[TOOL]),
    ]
    assert names(last_calls(find_chat_calls(spans))) == ["1", "2", "3", "4"]
    spans.append(call("ca-5", [QUESTION, ANSWER, AGAIN], {"content": "c"}))
    assert names(last_calls(find_chat_calls(spans))) == ["3", "4", "5"]


def test_the_choice_that_was_continued_is_followed():
    """Of several choices, those that the agent turned down are no conversations of their own."""

    def choices(name, messages, *texts):
        said = [{"role": "assistant", "content": text} for text in texts]
        options = [CallChoice(index=at, message=each) for at, each in enumerate(said)]
        return make_call(name, choices=options, request={"messages": messages}).to_span()

    first = choices("ca-1", [QUESTION], "a0", "a1", "a1")
    second = choices("ca-2", [QUESTION, ANSWER, AGAIN], "b0", "b1")
    every = TraceToMessages().adapt([first, second])
    assert [each["messages"][-1]["content"] for each in every] == ["a0", "a1", "a1", "b0", "b1"]
    kept = TraceToMessages(per_conversation=True).adapt([first, second])
    assert [[m["content"] for m in each["messages"]] for each in kept] == [
        ["q1", "a1", "q2", "b0"],
        ["q1", "a1", "q2", "b1"],
    ]


def test_choices_of_other_prompts_are_kept():
    """A completion of another prompt in the same call was not turned down."""
    texts = ["once a", "once b", "twice a"]
    choices = [
        CallChoice(index=at, message={"role": "assistant", "content": text}, prompt_token_ids=[at])
        for at, text in enumerate([*texts, "twice b"])
    ]
    request = {"prompt": ["Once", "Twice"], "n": 2}
    first = make_call("ca-1", dialect="openai.completions", request=request, choices=choices)
    messages = [{"role": "user", "content": "Once"}, {"role": "assistant", "content": "once b"}]
    second = call("ca-2", [*messages, AGAIN], {"content": "end"})
    found = last_calls(find_chat_calls([first.to_span(), second]))
    said = [chat.messages[-1]["content"] for chat in found]
    assert said == ["twice a", "twice b", "end"]


def test_tool_turns_go_on():
    """A turn that called a tool is continued by the one that brings the result."""
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": "c", "type": "function", "function": function}]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    spans = [
        call("ca-1", [QUESTION], {"content": "", "tool_calls": calls}),
        call("ca-2", [QUESTION, asked, result], {"content": "done"}),
    ]
    assert names(last_calls(find_chat_calls(spans))) == ["2"]
