"""Messages told as events of a span are read."""

from agentlightning.adapter.conventions.genai_events import read
from agentlightning.types import Event
from tests.support.spans import make_span


def test_a_chat_with_tools():
    """Roles follow the events' names; results keep their calls' ids; contents may be JSON."""
    span = make_span("a", gen_ai__request__model="m", gen_ai__usage__input_tokens=3)
    call = '[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]'
    span.events = [
        Event(name="gen_ai.system.message", attributes={"content": "rules"}),
        Event(name="gen_ai.user.message", attributes={"gen_ai.event.content": '{"content": "q"}'}),
        Event(name="gen_ai.assistant.message", attributes={"tool_calls": call}),
        Event(name="gen_ai.tool.message", attributes={"id": "c", "content": "r"}),
        Event(name="exception", attributes={"exception.message": "no matter"}),
        Event(name="gen_ai.choice", attributes={"index": 0, "message": '{"content": "a"}'}),
    ]
    found = read(span)
    assert found is not None
    assert [m["role"] for m in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[1]["content"] == "q"
    assert found.messages[2]["tool_calls"][0]["id"] == found.messages[3]["tool_call_id"] == "c"
    assert found.answers == [{"content": "a"}]
    assert (found.model, found.usage["prompt_tokens"]) == ("m", 3)


def test_without_an_answer():
    """A span without the event of a choice is no call by this convention."""
    span = make_span("a")
    span.events = [Event(name="gen_ai.user.message", attributes={"content": "q"})]
    assert read(span) is None
