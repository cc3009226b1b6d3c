"""Messages that say the same."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.engine.history.messages import answer_key, chain, context_key, message_key


def called(arguments: Any, name: str = "f", call_id: str = "1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "function": function}]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([0.5, 2.0]) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON), st.booleans(), st.randoms())
def test_arguments_are_compared_as_values(
    value: dict[str, Any], escaped: bool, random: Any
) -> None:
    """Order, blanks and escapes do not matter; an object and its text are one."""
    items = list(value.items())
    random.shuffle(items)
    spelled = json.dumps(dict(items), ensure_ascii=escaped, indent=1)
    said = answer_key(called(json.dumps(value))).said
    assert answer_key(called(spelled)).said == said
    assert answer_key(called(value)).said == said
    assert answer_key(called({**value, "further": 1})).said != said


def test_whole_floats_empty_and_broken_arguments() -> None:
    """2.0 is 2, nothing is an empty object, and what is no JSON is compared as text."""
    assert answer_key(called('{"a": 2.0}')).said == answer_key(called('{"a": 2}')).said
    assert answer_key(called("")).said == answer_key(called("{}")).said
    assert answer_key(called(" {broken")).said == answer_key(called("{broken")).said
    assert answer_key(called("{broken")).said != answer_key(called("{}")).said
    assert answer_key(called("{}")).said != answer_key(called("{}", name="g")).said


def test_reasoning_is_kept_apart_however_it_is_sent() -> None:
    """In the text, behind a head that opened it, or in a field of its own."""
    plain = answer_key({"content": "Yes"})
    for message in (
        {"content": "<think>\nso\n</think>\n\nYes"},
        {"content": "so\n</think>\n\nYes "},
        {"content": " Yes", "reasoning_content": "so"},
        {"content": [{"type": "text", "text": "Yes"}], "reasoning": "so\n"},
    ):
        key = answer_key(message)
        assert (key.said, key.reasoning) == (plain.said, "so")
    assert plain.reasoning == ""
    assert answer_key({"content": "<think>cut off"}).reasoning == "cut off"


def test_reasoning_beside_a_text_that_holds_more_of_it() -> None:
    """A client that drops the field leaves the part that stands in the text."""
    sampled = answer_key({"content": "b</think>Yes", "reasoning_content": "a"})
    dropped = answer_key({"content": "b</think>Yes"})
    assert sampled.said == dropped.said == answer_key({"content": "Yes"}).said
    assert (sampled.reasoning, sampled.reasoning_in_text) == ("a\nb", "b")
    assert dropped.reasoning == "b"
    assert answer_key({"content": "Yes", "reasoning_content": "a"}).reasoning_in_text == ""


def test_ids_of_calls_are_not_what_is_said() -> None:
    """Clients may give calls ids of their own."""
    one, other = called({}, call_id="a"), called({}, call_id="b")
    assert answer_key(one).said == answer_key(other).said
    assert answer_key(one).call_ids != answer_key(other).call_ids
    result = {"role": "tool", "content": "3", "tool_call_id": "a"}
    assert message_key(result) == message_key({**result, "tool_call_id": "b"})


def test_other_messages_are_the_same_when_they_render_the_same() -> None:
    """Parts of text are the text; role, name, blanks and images count."""
    text = message_key({"role": "user", "content": "ab"})
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert message_key({"role": "user", "content": parts, "name": None}) == text
    image = {"type": "image_url", "image_url": {"url": "x"}}
    others = [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "ab "},
        {"role": "user", "content": "ab", "name": "n"},
        {"role": "user", "content": [*parts, image]},
        {"role": "assistant", "content": "ab"},
    ]
    assert len({text, *map(message_key, others)}) == 6


def test_beginnings_depend_on_all_before_them() -> None:
    """One link for each beginning, and none shared by different contexts."""
    links = chain(context_key([{"a": 1, "b": 2}], {}), [b"x", b"y"])
    assert len(links) == 3
    assert chain(context_key([{"b": 2, "a": 1}], {}), [b"x", b"y"]) == links
    assert set(chain(context_key([], {}), [b"x", b"y"])).isdisjoint(links)
    assert chain(links[0], [b"z", b"y"])[2] != links[2]
