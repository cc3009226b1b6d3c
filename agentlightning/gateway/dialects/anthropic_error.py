"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from agentlightning.gateway.jsontext import write_json

__all__ = ["error_body", "error_event", "type_of_status"]

_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_BY_CODE = {
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "not_found": "not_found_error",
    "paused": "overloaded_error",
    "stopping": "overloaded_error",
    "unavailable": "overloaded_error",
}
_DETAILED = frozenset({"thread_unsupported_request"})
"""Codes that Anthropic's clients look for in the details, to ask in another way."""

_TYPES = frozenset(_BY_STATUS.values()) | {"api_error"}


def error_body(message: str, *, error_type: str, code: str) -> bytes:
    """Return the body of an error.

    Args:
        message: What went wrong.
        error_type: Anthropic's type or OpenAI's.
        code: OpenAI's code, which is narrower than its type; empty if there is none.
    """
    known = error_type if error_type in _TYPES else "api_error"
    details = {"details": {"error_code": code}} if code in _DETAILED else {}
    error = {"type": _BY_CODE.get(code, known), "message": message, **details}
    return write_json({"type": "error", "error": error})


def error_event(message: str, *, error_type: str, code: str) -> bytes:
    """Return the same as an event that ends a stream."""
    body = error_body(message, error_type=error_type, code=code)
    return b"event: error\ndata: " + body + b"\n\n"


def type_of_status(status: int) -> str:
    """Return the type of error that goes with an HTTP status."""
    return _BY_STATUS.get(status, "invalid_request_error" if status < 500 else "api_error")
