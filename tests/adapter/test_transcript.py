"""Messages of any shape are put right."""

from agentlightning.adapter.transcript import normal_messages, normal_tools
from tests.support.chat_schema import assert_valid_messages

ANSWER = {"content": "done"}
FINAL = {"role": "assistant", "content": "done"}


def call(call_id, name="f"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_good_messages_stay_as_they_are():
    """A valid conversation with tools and parts is unchanged."""
    prompt = [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call("1"), call("2")]},
        {"role": "tool", "content": "two", "tool_call_id": "2"},
        {"role": "tool", "content": "one", "tool_call_id": "1"},
    ]
    assert normal_messages(prompt, ANSWER) == [*prompt, FINAL]


def test_missing_roles_are_inferred():
    """Without roles, speakers alternate; tool calls and results say who they are."""
    prompt = [
        {"content": "q"},
        {"tool_calls": [call("1")]},
        {"content": "r", "tool_call_id": "1"},
        {"content": "a"},
        {"content": "q2"},
    ]
    roles = [message["role"] for message in normal_messages(prompt, ANSWER)]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]


def test_tool_results_without_id_answer_the_oldest_open_call():
    """Results are tied to calls in order; one too many becomes the user's words."""
    prompt = [
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}}, call("2")]},
        {"role": "tool", "content": "x"},
        {"role": "tool", "content": "y"},
        {"role": "tool", "content": "z"},
    ]
    first, *results, _ = normal_messages(prompt, ANSWER)
    assert first["tool_calls"][0] == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "f", "arguments": '{"a": 1}'},
    }
    assert [(m["role"], m.get("tool_call_id")) for m in results] == [
        ("tool", "call_0"),
        ("tool", "2"),
        ("user", None),
    ]


def test_prompts_that_are_no_messages():
    """A text is the user's question; contents of other types become JSON."""
    assert normal_messages("hi", ANSWER)[0] == {"role": "user", "content": "hi"}
    assert normal_messages({"a": 1}, ANSWER) == [FINAL]
    assert normal_messages([3, {"role": "user", "content": {"a": 1}}], ANSWER)[:2] == [
        {"role": "user", "content": "3"},
        {"role": "user", "content": '{"a": 1}'},
    ]


def test_tool_definitions():
    """Definitions of either shape are given in the API's; broken schemas take no parameters."""
    none = {"type": "object", "properties": {}}
    request = {
        "functions": [
            {"name": "f", "description": "d", "parameters": '{"type": "object"}'},
            {"name": "g", "parameters": "{"},
            {"description": "nameless"},
        ]
    }
    assert normal_tools(request) == [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"},
        },
        {"type": "function", "function": {"name": "g", "parameters": none}},
    ]
    same = {"type": "function", "function": {"name": "f", "parameters": none}}
    assert normal_tools({"tools": [same]}) == [same]
    assert normal_tools({}) is None
    assert normal_tools("x") is None


def test_items_of_the_responses_api():
    """Calls, results and thoughts that stand alone among messages join those they belong to."""
    prompt = [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
    ]
    messages = normal_messages(prompt, ANSWER, reasoning=True)
    assert [m["role"] for m in messages] == [
        *("user", "assistant", "tool", "assistant", "tool", "assistant")
    ]
    assert [m.get("reasoning_content") for m in messages] == [None, "hm", None, None, None, None]
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["one", "two"]
    assert_valid_messages([{k: v for k, v in m.items() if "reason" not in k} for m in messages])


def test_calls_without_result_get_an_empty_one():
    """Results follow their calls at once, whoever spoke between; the last message's stay open."""
    prompt = [
        {"role": "assistant", "tool_calls": [call("1"), call("2")]},
        {"role": "user", "content": "wait"},
        {"role": "tool", "tool_call_id": "2", "content": "late"},
    ]
    messages = normal_messages(prompt, {"tool_calls": [call("3")]})
    assert_valid_messages(messages)
    assert [(m["role"], m.get("tool_call_id"), m["content"]) for m in messages[1:4]] == [
        ("tool", "2", "late"),
        ("tool", "1", ""),
        ("user", None, "wait"),
    ]
    assert len(messages) == 5


def test_ids_of_calls_are_told_apart():
    """Two calls of one message never share an id."""
    twins = [call("same"), call("same"), {"name": "f"}]
    (message,) = normal_messages([], {"tool_calls": twins})
    assert [each["id"] for each in message["tool_calls"]] == ["same", "call_0", "call_1"]


def test_parts_that_a_role_may_not_have():
    """An image in a tool's result is kept as text, since only users may show images."""
    image = {"type": "image_url", "image_url": {"url": "u"}}
    prompt = [
        {"role": "assistant", "tool_calls": [call("1")]},
        {"role": "tool", "tool_call_id": "1", "content": [image]},
    ]
    messages = normal_messages(prompt, {"content": None, "refusal": "no"})
    assert_valid_messages(messages)
    assert messages[1]["content"] == [
        {"type": "text", "text": '{"type": "image_url", "image_url": {"url": "u"}}'}
    ]
    assert messages[-1] == {"role": "assistant", "content": "", "refusal": "no"}
