"""Calls become transcripts, whoever recorded them."""

from agentlightning.adapter.chat_call import find_chat_calls
from agentlightning.types import CallChoice, Event
from agentlightning.types.call import VersionSpan
from tests.support.chat_schema import assert_valid_messages
from tests.support.spans import make_call, make_llm_span, make_span


def test_what_a_record_tells():
    """A captured call has its agent, model and weight versions, and is exact."""
    choice = CallChoice(
        message={"role": "assistant", "content": "a", "reasoning_content": "hm"},
        versions=[
            VersionSpan(start=0, length=1, version=4),
            VersionSpan(start=1, length=1, version=5),
        ],
    )
    span = make_call("ca-1", choices=[choice], parent_span_id="agent").to_span()
    spans = [make_span("agent", agent__name="planner"), span]
    (call,) = find_chat_calls(spans)
    assert call.messages[-1] == {"role": "assistant", "content": "a"}
    assert (call.agent, call.model, call.weight_versions) == ("planner", "policy", (4, 5))
    assert call.is_exact
    (call,) = find_chat_calls(spans, reasoning=True)
    assert call.messages[-1]["reasoning_content"] == "hm"


def test_a_clients_span_lends_its_agent():
    """Of two writers of one call the gateway's counts, with the agent that the client was in."""
    spans = [
        make_span("agent", agent__name="planner"),
        make_llm_span("x", "agent", gen_ai__response__id="resp-ca-1"),
        make_call("ca-1").to_span(),
    ]
    (call,) = find_chat_calls(spans)
    assert (call.span_id, call.agent) == ("1", "planner")


def test_calls_without_answer():
    """Errors, cancelled calls, judges and unreadable records make no transcript."""
    broken = make_call("ca-4").to_span()
    broken.attributes["agentlightning.call"] = "{"
    spans = [
        make_call("ca-1", outcome="error").to_span(),
        make_call("ca-2", outcome="cancelled").to_span(),
        make_call("ca-3", trained=False).to_span(),
        broken,
        make_call("ca-5", choices=[]).to_span(),
    ]
    assert find_chat_calls(spans) == []


def test_anthropic_blocks_without_a_chat_form():
    """Blocks of Anthropic's messages become calls, results and images of chat messages."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}}
    request = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "so"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t2", "content": "two"},
                    {"type": "tool_result", "tool_use_id": "t1", "content": [image]},
                    {"type": "text", "text": "go on"},
                ],
            },
        ]
    }
    (call,) = find_chat_calls([make_call("ca-1", request=request).to_span()])
    assert_valid_messages(call.messages)
    assert [m["role"] for m in call.messages] == [
        *("user", "assistant", "tool", "tool", "user", "assistant")
    ]
    assert call.messages[0]["content"][1]["image_url"]["url"] == "data:image/png;base64,A"
    assert call.messages[1]["content"] == [{"type": "text", "text": "so"}]
    assert [c["id"] for c in call.messages[1]["tool_calls"]] == ["t1", "t2"]
    assert call.messages[2]["tool_call_id"] == "t2"
    assert call.messages[4]["content"] == [{"type": "text", "text": "go on"}]


def test_messages_told_as_events():
    """The older GenAI convention tells prompt and answer as events of the span."""
    span = make_span("a", gen_ai__request__model="m")
    span.events = [
        Event(name="gen_ai.user.message", attributes={"content": "q"}),
        Event(name="gen_ai.choice", attributes={"message": '{"content": "a"}', "index": 0}),
    ]
    (call,) = find_chat_calls([span])
    assert call.messages == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    assert not call.is_exact


def test_plain_completions():
    """A text is the user's; each choice answers its own prompt; ids have no transcript."""

    def asked(prompt, count=1, **more):
        message = {"role": "assistant", "content": "a"}
        choices = [
            CallChoice(index=at, message=message, prompt_token_ids=[1]) for at in range(count)
        ]
        request = {"prompt": prompt, **more}
        call = make_call("ca-1", dialect="openai.completions", request=request, choices=choices)
        return [chat.messages[0]["content"] for chat in find_chat_calls([call.to_span()])]

    assert asked("Once") == ["Once"]
    assert asked("Once", 2, n=2) == ["Once", "Once"]
    assert asked(["Once", "Twice"], 2) == ["Once", "Twice"]
    assert asked(["Once", "Twice"], 4, n=2) == ["Once", "Once", "Twice", "Twice"]
    assert asked([1, 2]) == asked([[1], [2]], 2) == []


def test_every_choice():
    """A call with several choices gives an answer for each that has a message, with its versions."""
    choices = [
        CallChoice(
            index=at,
            message={"role": "assistant", "content": said} if said else None,
            versions=[VersionSpan(start=0, length=1, version=at)],
        )
        for at, said in enumerate(["a", "", "c"])
    ]
    found = find_chat_calls([make_call("ca-1", choices=choices).to_span()])
    assert [chat.messages[-1]["content"] for chat in found] == ["a", "c"]
    assert [chat.weight_versions for chat in found] == [(0,), (2,)]
    assert {chat.span_id for chat in found} == {"1"}
    assert found[0].messages[:-1] == found[1].messages[:-1]
