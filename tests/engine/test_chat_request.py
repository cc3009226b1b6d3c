"""Checking request bodies."""

from typing import Any

import pytest

from agentlightning.engine.chat_request import parse_chat_request
from agentlightning.errors import RequestError

MESSAGES = [{"role": "user", "content": "hi"}]


def test_defaults_are_those_of_openai() -> None:
    """A body with messages alone samples once at temperature 1, as long as the context holds."""
    request = parse_chat_request({"messages": MESSAGES})
    assert (request.n, request.params.temperature, request.params.max_tokens) == (1, 1.0, None)
    assert not (
        request.stream or request.logprobs or request.tool_choice.finds_calls or request.stop
    )


def test_every_supported_field_is_read() -> None:
    """Sampling fields, stops, tools and options arrive where they belong."""
    request = parse_chat_request(
        {
            "messages": MESSAGES,
            "model": "m",
            "n": 3,
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 7,
            "max_tokens": 5,
            "max_completion_tokens": 6,
            "stop": "x",
            "seed": -3,
            "logprobs": True,
            "top_logprobs": 20,
            "tools": [{"type": "function"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "stop_token_ids": [4],
            "ignore_eos": True,
            "chat_template_kwargs": {"enable_thinking": False},
            "user": "ignored",
            "presence_penalty": 0.0,
        }
    )
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (6, 0, 0.5, 7)
    assert (params.seed, params.top_logprobs, params.stop_token_ids) == (-3, 20, (4,))
    assert params.ignore_eos
    assert request.stop == ("x",)
    assert request.tool_choice.finds_calls
    assert request.include_usage
    assert request.template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids"),
    ],
)
def test_what_cannot_be_honoured_is_refused(change: dict[str, Any], param: str) -> None:
    """A bad or unsupported field is a 400 that names the field."""
    with pytest.raises(RequestError) as caught:
        parse_chat_request({"messages": MESSAGES, **change})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.to_body()["error"]["type"] == "invalid_request_error"


def test_a_body_must_be_an_object() -> None:
    """Lists and strings are refused."""
    with pytest.raises(RequestError):
        parse_chat_request([])
