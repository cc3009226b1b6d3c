"""JSON as text: members go, every other byte stays; what servers send can be read."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.gateway.jsontext import Cut, cut_members, parse_json, write_json

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
keys = st.sampled_from(["a", "drop", "blank", "é", ""])
objects = st.dictionaries(keys, values)
bodies = st.dictionaries(
    keys | st.just("choices"), values | st.lists(objects | scalars, max_size=4)
)
CUT = Cut(
    drop=frozenset({"drop"}),
    blank=frozenset({"blank"}),
    items={"choices": Cut(drop=frozenset({"drop"}), blank=frozenset({"blank"}))},
)


def cut_plainly(value: dict[str, Any], inner: bool = False) -> dict[str, Any]:
    """Do what the cut does to a parsed object."""
    kept = {
        key: None if key == "blank" else member
        for key, member in value.items()
        if key != "drop" or member is None
    }
    choices = kept.get("choices")
    if not inner and isinstance(choices, list):
        kept["choices"] = [
            cut_plainly(item, inner=True) if isinstance(item, dict) else item for item in choices
        ]
    return kept


@settings(max_examples=60)
@given(
    body=bodies,
    ascii_only=st.booleans(),
    spacing=st.sampled_from([(",", ":"), (" ,\t", " :\n"), (", ", ": ")]),
    indent=st.sampled_from([None, 1]),
)
def test_cutting_text_equals_cutting_values(
    body: dict[str, Any], ascii_only: bool, spacing: tuple[str, str], indent: int | None
) -> None:
    """Whatever the layout, the cut text says what the cut value says."""
    text = json.dumps(body, ensure_ascii=ascii_only, separators=spacing, indent=indent)
    data = text.encode()
    shorter = cut_members(data, CUT)
    assert json.loads(shorter) == cut_plainly(body)
    assert cut_members(data, CUT, parse_json(data)) == shorter


@settings(max_examples=40)
@given(body=bodies)
def test_nothing_to_cut_is_the_same_object(body: dict[str, Any]) -> None:
    """A text without the members comes back as it is."""
    data = json.dumps(body).encode()
    assert cut_members(data, Cut(drop=frozenset({"absent"}))) is data


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"drop":1}', "{}"),
        ('{"drop":1,"a":1.0e2}', '{"a":1.0e2}'),
        ('{ "a" : 1 , "drop":[1,2] }', '{ "a" : 1 }'),
        ('{"drop":1,"drop":2,"a":"\\u00e9"}', '{"a":"\\u00e9"}'),
        ('{"a":1,"drop":2,"drop":{},"blank":[3]}', '{"a":1,"blank":null}'),
        ('{"choices":[{"drop":1,"a":2} , {"a":3,"drop":4}]}', '{"choices":[{"a":2} , {"a":3}]}'),
        ('{"drop":null,"blank":null}', '{"drop":null,"blank":null}'),
    ],
)
def test_the_rest_stays_byte_for_byte(text: str, left: str) -> None:
    """Spaces, escapes and numbers around a cut are those of the sender."""
    assert cut_members(text.encode(), CUT) == left.encode()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}', "{1:2}"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """A text that is broken or no object is an error, not something else."""
    with pytest.raises(ValueError):
        cut_members(text.encode(), CUT)


@settings(max_examples=40)
@given(value=values)
def test_reading_gives_back_what_was_written(value: Any) -> None:
    """Ordinary JSON is read as every parser reads it."""
    data = json.dumps(value).encode()
    assert parse_json(data) == json.loads(data)


def test_half_characters_and_infinities_can_be_read() -> None:
    """What lax servers send is read as something that can be stored."""
    value = parse_json(b'{"a": "x\\ud83d", "\\udc00": [-Infinity, NaN, Infinity]}')
    assert value == {"a": "x\ufffd", "\ufffd": [-9999.0, None, None]}
    assert json.loads(write_json(value)) == value
    assert all(item is None or math.isfinite(item) for item in value["\ufffd"])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"{'a': 1}"])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    """Broken, deep and undecodable texts fail in the one way callers expect."""
    with pytest.raises(ValueError):
        parse_json(data)
