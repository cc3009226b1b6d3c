"""Putting a streamed message together, whatever a server puts into its chunks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.choice import ChoiceCapture, merge_delta


def merged(*deltas: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {}
    for delta in deltas:
        merge_delta(message, delta)
    return message


@given(parts=st.lists(st.text(max_size=4), max_size=6))
def test_texts_are_joined(parts: list[str]) -> None:
    """Content, reasoning and arguments are the parts one after another."""
    message = merged(*({"content": part, "reasoning": part} for part in parts))
    assert message.get("content", "") == "".join(parts)
    assert message.get("reasoning", "") == "".join(parts)


def test_what_is_said_once_is_not_joined() -> None:
    """Servers that repeat ids, types and names in every chunk do not double them."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {**call, "function": {"name": "f", "arguments": "}"}}
    message = merged({"tool_calls": [call]}, {"tool_calls": [again]})
    assert message["tool_calls"] == [
        {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]


def test_several_calls_of_one_chunk_and_out_of_order_ones_are_kept_apart() -> None:
    """Tool calls are told apart by index and recorded in its order, without it."""
    capture = ChoiceCapture(0)
    for index in (1, 0):
        part = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": ""}}
        capture.take_delta({"tool_calls": [part]})
    both = [{"index": at, "function": {"arguments": str(at)}} for at in (0, 1)]
    capture.take_delta({"tool_calls": both})
    message = capture.to_choice().message or {}
    assert [(call["id"], call["function"]["arguments"]) for call in message["tool_calls"]] == [
        ("c0", "0"),
        ("c1", "1"),
    ]
    assert all("index" not in call for call in message["tool_calls"])


def test_nulls_do_not_erase() -> None:
    """A null in a later chunk leaves what was said."""
    assert merged({"content": "a"}, {"content": None}) == {"content": "a"}


@pytest.mark.parametrize(
    "choice",
    [
        {"token_ids": "12"},
        {"token_ids": [1, "2"]},
        {"token_ids": [1], "token_versions": [None]},
        {"logprobs": {"content": [{"token": "a"}]}},
        {"logprobs": {"content": ["a"]}},
    ],
)
def test_tokens_that_make_no_sense_are_the_servers_error(choice: dict[str, Any]) -> None:
    """Ids and log-probabilities of the wrong shape are never recorded as if they were right."""
    with pytest.raises(UpstreamError):
        ChoiceCapture(0).take_tokens(choice, None)


def test_one_probability_that_is_none_makes_all_unknown() -> None:
    """Log-probabilities are complete or absent."""
    capture = ChoiceCapture(0)
    entries = [{"logprob": -0.5}, {"logprob": None}]
    capture.take_tokens({"token_ids": [5, 6], "logprobs": {"content": entries}}, None)
    choice = capture.to_choice()
    assert (choice.token_ids, choice.logprobs, choice.versions) == ([5, 6], [], [])


def test_tokens_before_the_first_version_share_it() -> None:
    """A version that comes with a later chunk holds for the tokens before it."""
    capture = ChoiceCapture(0)
    capture.take_tokens({"token_ids": [1, 2]}, None)
    capture.take_tokens({"token_ids": [3]}, 4)
    capture.take_tokens({"token_ids": [5]}, 6)
    versions = capture.to_choice().versions
    assert [(run.start, run.length, run.version) for run in versions] == [(0, 3, 4), (3, 1, 6)]
