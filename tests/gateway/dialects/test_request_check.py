"""Reading requests that are to be translated: what passes, and how the rest is refused."""

from typing import Any

import pytest

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.request_check import (
    check_members,
    effort_of,
    one_or_many,
    read_list,
    read_object,
    read_text,
    refuse,
)


def test_a_refusal_names_its_place() -> None:
    """Message and parameter say where the client went wrong."""
    with pytest.raises(RequestError, match=r"a\.b: is odd\.") as caught:
        refuse("a.b", "is odd", code="odd")
    assert (caught.value.status, caught.value.param, caught.value.error_code) == (400, "a.b", "odd")


def test_members_that_ask_for_nothing_pass() -> None:
    """Known members, null, hints for caches and neutral values are no reason to refuse."""
    value = {"type": "t", "cache_control": {}, "a": 1, "b": None, "c": []}
    check_members("x", value, {"a"}, {"c": ([],)})
    for where, param in (("x", "x.d"), ("", "d")):
        with pytest.raises(RequestError) as caught:
            check_members(where, {**value, "d": 1}, {"a"}, {"c": ([],)})
        assert caught.value.param == param
    with pytest.raises(RequestError, match=r"x\.c"):
        check_members("x", {"c": [1]}, set(), {"c": ([],)})


def test_types_are_checked() -> None:
    """An object, a list and a text are just that."""
    assert read_object("x", {"a": 1}) == {"a": 1}
    assert read_list("x", [1]) == [1]
    assert read_text("x", {"a": "b"}, "a") == "b"
    wrong: list[Any] = [None, 1, "a", [], True]
    for value in wrong:
        with pytest.raises(RequestError, match="x"):
            read_object("x", value)
        with pytest.raises(RequestError, match=r"x\.a"):
            read_text("x", {"a": [value]}, "a")
    with pytest.raises(RequestError) as caught:
        read_text("", {}, "a")
    assert caught.value.param == "a"
    with pytest.raises(RequestError, match="x"):
        read_list("x", {})


def test_a_single_text_stands_for_itself() -> None:
    """Content is a text where it can be, and a list of parts elsewhere."""
    text = {"type": "text", "text": "a"}
    assert one_or_many([]) == ""
    assert one_or_many([text]) == "a"
    assert one_or_many([text, text]) == [text, text]
    image = {"type": "image_url", "image_url": {"url": "u"}}
    assert one_or_many([image]) == [image]


def test_levels_of_effort() -> None:
    """Levels beyond what chat servers know are the nearest that they know."""
    assert [effort_of("x", it) for it in ("minimal", "medium", "max")] == ["low", "medium", "high"]
    for value in ("none", None, [], 3):
        with pytest.raises(RequestError, match="x"):
            effort_of("x", value)
