"""Answers of a model, as odd as they come: for tests of what client formats make of them."""

import json

from hypothesis import strategies as st

from agentlightning.types.call import CallRecord
from tests.support.model_server import Answer, SentCall, text_of

texts = st.text(max_size=24) | st.sampled_from(
    [
        "\n\ndata: x\n\n",
        "日本語 🎈🇩🇪",
        "a\u2028b\x85c\u2029\x0b\x1c",
        '"}]\\',
        "\r\n",
        "event: ping\n",
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
arguments = (
    st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(json.dumps)
    | st.sampled_from(['{"q": 1.50, "q": "é\\n"}', "{}", ' {"a":[ ]}\n'])
    | st.sampled_from(["", "[1]", "null", '{"q": ', "{'q': 1}", "🎈\n", '"text"'])
)
answers = st.builds(
    Answer,
    text=texts,
    reasoning=st.just("") | texts,
    tools=st.lists(st.tuples(st.sampled_from(["search", "get_weather"]), arguments), max_size=3),
    interleaved=st.booleans(),
    write_bytes=st.sampled_from([None, 11, 64]),
    spaced=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    cached_tokens=st.none() | st.integers(0, 3),
)


def check_record(record: CallRecord, answer: Answer, call: SentCall) -> None:
    """Check that a record holds what was sampled and said, to the byte."""
    (choice,) = record.choices
    message = choice.message or {}
    assert (message.get("content") or "") == answer.text
    assert (message.get("reasoning_content") or "") == answer.reasoning
    calls = [call["function"] for call in message.get("tool_calls") or []]
    assert [(it["name"], it["arguments"]) for it in calls] == answer.tools
    assert choice.token_ids == call.token_ids[0]
    assert choice.logprobs == call.logprobs[0]
    assert record.prompt_token_ids == call.prompt_token_ids
    assert choice.finish_reason == ("tool_calls" if answer.tools else "stop")
    told = "".join(f"<{name}>{written}" for name, written in answer.tools)
    assert text_of(choice.token_ids) == answer.reasoning + answer.text + told
