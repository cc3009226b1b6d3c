"""JSON objects that are passed on while they grow: never less than an object at the end."""

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jiter import from_json

from agentlightning.gateway.dialects.json_object import GrowingObject

texts = st.text(max_size=6) | st.sampled_from(["\\", '"', "🎈", "\u2028", "a\nb"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
written = st.builds(
    json.dumps,
    st.dictionaries(texts, values, max_size=4),
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 1]),
)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    """Return a text cut at places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


def passed(text: str, cuts: list[int]) -> tuple[str, str]:
    """Return what was passed on before the end, and what was then."""
    growing = GrowingObject("broken")
    told = ""
    for piece in pieces_of(text, cuts):
        told += growing.feed(piece)
        # Clients parse what they have at every piece, and raise where it can be no JSON.
        from_json(told.encode(), partial_mode=True) if told.strip() else None
    return told, growing.end()


@given(written, st.lists(st.integers(0, 200), max_size=30))
def test_objects_pass_as_they_are(text: str, cuts: list[int]) -> None:
    """The pieces of an object add up to it, and all but its end is passed on before the end."""
    told, end = passed(text, cuts)
    assert told + end == text
    assert end == "}"


@given(written, st.integers(0, 200), st.lists(st.integers(0, 200), max_size=9), texts | st.just(""))
def test_broken_objects_are_taken_back(text: str, at: int, cuts: list[int], more: str) -> None:
    """What is no object ends as one that holds the text, and none of the members it began with."""
    broken = text[: at % len(text)] + more
    try:
        if not broken or isinstance(orjson.loads(broken), dict):
            return
    except orjson.JSONDecodeError:
        pass
    told, end = passed(broken, cuts)
    found: dict[str, Any] = json.loads(told + end)
    assert found.pop("broken") == broken
    assert set(found.values()) <= {None}


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        "{} x",
        "{}}",
        '{"a": 1}}',
        '{"a": 1,}',
        '{"a" 1}',
        '{"a": 01}',
        '{"a": +1, "b": 2}',
        '{"a": tru}',
        '{"a": "x\ny"}',
        '{"a": "\\x1234567890"}',
        '{"a": "\\ud800"}',
        '{"a": "\\ud800 and much more"}',
        '{"a": [1}',
        '{"a": [1, ',
        '{"a": {"b": 1, ',
        '{"a": {"b',
        '{"a": [',
        '{"a": {',
        '{"a": ' + "[" * 300 + "]" * 300 + "}",
        "{'a': 1}",
        "{1: 2}",
        ",",
        ' {"a": NaN}',
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_what_is_no_object(text: str, size: int) -> None:
    """Every way to go wrong ends as an object, wherever the pieces are cut."""
    told, end = passed(text, list(range(0, len(text), size)))
    assert json.loads(told + end)["broken"] == text


def test_nothing_is_nothing() -> None:
    """A text without a character has no object."""
    assert passed("", []) == ("", "")


def test_texts_grow_letter_by_letter() -> None:
    """Long texts do not wait for their end; only half an escape does."""
    growing = GrowingObject("broken")
    told = [growing.feed(piece) for piece in ['{"q": "he', "llo\\", "n", '"', "}", " \n"]]
    assert told == ['{"q": "he', "llo", "\\n", '"', "", ""]
    assert growing.is_whole
    assert growing.end() == "} \n"
