"""Errors in the shape of Anthropic."""

import json

import pytest

from agentlightning.gateway.dialects.anthropic_error import error_body, error_event, type_of_status


@pytest.mark.parametrize(
    ("error_type", "code", "told"),
    [
        ("invalid_request_error", "invalid_request_error", "invalid_request_error"),
        ("invalid_request_error", "model_not_found", "not_found_error"),
        ("invalid_request_error", "invalid_api_key", "authentication_error"),
        ("invalid_request_error", "context_length_exceeded", "invalid_request_error"),
        ("server_error", "upstream_error", "api_error"),
        ("server_error", "paused", "overloaded_error"),
        ("server_error", "unavailable", "overloaded_error"),
        ("rate_limit_error", "", "rate_limit_error"),
        ("", "", "api_error"),
    ],
)
def test_types(error_type: str, code: str, told: str) -> None:
    """OpenAI's types and codes become Anthropic's types, in bodies and in events."""
    body = error_body("why", error_type=error_type, code=code)
    assert json.loads(body) == {"type": "error", "error": {"type": told, "message": "why"}}
    event = error_event("why", error_type=error_type, code=code)
    assert event == b"event: error\ndata: " + body + b"\n\n"


def test_details() -> None:
    """Where clients know another way to ask, they are told by the code that they look for."""
    body = error_body("why", error_type="invalid_request_error", code="thread_unsupported_request")
    assert json.loads(body)["error"]["details"] == {"error_code": "thread_unsupported_request"}


@pytest.mark.parametrize(
    ("status", "told"),
    [(429, "rate_limit_error"), (529, "overloaded_error"), (418, "invalid_request_error")],
)
def test_statuses(status: int, told: str) -> None:
    """A status has a type of error; unknown ones are the client's fault or the server's."""
    assert type_of_status(status) == told
    assert type_of_status(599) == "api_error"
