"""Reading members of requests: types, ranges, and what cannot be honoured."""

from typing import Any

import pytest

from agentlightning.engine.request_fields import (
    read_body,
    read_member,
    read_number,
    read_sampling,
    read_stop,
)
from agentlightning.errors import RequestError


def test_what_asks_for_nothing_passes() -> None:
    """Values that change no answer are taken, whoever sends them; others are refused by name."""
    body = {"min_p": 0, "logit_bias": {}, "audio": None, "user": "u"}
    assert read_body(body, {"audio": (None,)}) == body
    for name, value in (("min_p", 0.1), ("audio", {"voice": "x"})):
        with pytest.raises(RequestError) as caught:
            read_body({name: value}, {"audio": (None,)})
        assert (caught.value.param, caught.value.error_code) == (name, "unsupported_parameter")
    with pytest.raises(RequestError, match="object"):
        read_body([], {})


@pytest.mark.parametrize("value", ["1", 1.5, True, 0, 9])
def test_numbers_are_whole_and_within_bounds(value: Any) -> None:
    """A number of another kind or out of bounds is refused by name."""
    with pytest.raises(RequestError) as caught:
        read_number({"n": value}, "n", 1, low=1, high=8, whole=True)
    assert caught.value.param == "n"


def test_what_is_not_said_has_its_default() -> None:
    """Null is as good as nothing."""
    assert read_number({"n": None}, "n", 3, low=1, high=8) == 3
    assert read_member({"n": None}, "n", str, "x") == "x"
    assert read_stop({"stop": None}) == ()
    assert read_sampling({}, default_limit=16).max_tokens == 16
    assert read_sampling({"max_tokens": 5}, default_limit=16, top_logprobs=2).top_logprobs == 2


@pytest.mark.parametrize("stop", ["", ["a", ""], [1], 5])
def test_stops_are_texts(stop: Any) -> None:
    """An empty string would end every answer before it begins."""
    with pytest.raises(RequestError, match="stop"):
        read_stop({"stop": stop})


def test_one_stop_is_a_list_of_one() -> None:
    """Both ways of writing it mean the same."""
    assert read_stop({"stop": "a"}) == read_stop({"stop": ["a"]}) == ("a",)
