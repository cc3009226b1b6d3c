"""Errors on the wire: one table between classes, statuses and codes, read by both ends.

A body is `{"detail": sentence, "code": code, "request_id": id}`, with an `error_id` when the trace
is in the server's log. No traceback ever travels.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from pydantic import ValidationError

from agentlightning._internal.ids import generate_id
from agentlightning.errors import (
    AgentLightningError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    InvalidTransitionError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
    UnauthorizedError,
)

__all__ = [
    "RETRYABLE_STATUSES",
    "UnprocessableError",
    "WireError",
    "describe_validation",
    "error_from_wire",
    "error_to_wire",
]

logger = logging.getLogger(__name__)

MAX_SHOWN_PROBLEMS = 5

STATUS_BY_CLASS: Final[dict[type[Exception], int]] = {
    NotFoundError: 404,
    InvalidTransitionError: 409,
    ConflictError: 409,
    InvalidRequestError: 400,
    UnauthorizedError: 401,
    StoreUnavailableError: 503,
    ConfigurationError: 400,
    NotImplementedError: 501,
}
"""Most specific first; a subclass takes the status of the first class it derives from."""

CLASS_BY_CODE: Final[dict[str, type[Exception]]] = {
    **{
        kind.code: kind
        for kind in STATUS_BY_CLASS
        if issubclass(kind, AgentLightningError) and kind is not ConfigurationError
    },
    "not_implemented": NotImplementedError,
    "unprocessable": InvalidRequestError,
    "too_large": InvalidRequestError,
    "unsupported_media_type": InvalidRequestError,
    "forbidden_origin": UnauthorizedError,
    "forbidden_host": UnauthorizedError,
    "wrong_run": ConflictError,
    "internal_error": StoreError,
    "no_route": StoreError,
    "method_not_allowed": StoreError,
}

RETRYABLE_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may be made again."""


class WireError(InvalidRequestError):
    """A request that is refused with a status and code of its own."""

    def __init__(self, message: str, *, status: int, wire_code: str) -> None:
        """Keep what the answer says beside the message."""
        super().__init__(message)
        self.status = status
        self.wire_code = wire_code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (str(self), self.status, self.wire_code)


def _rebuild(message: str, status: int, wire_code: str) -> WireError:
    return WireError(message, status=status, wire_code=wire_code)


class UnprocessableError(WireError):
    """The body or query does not have the shape that the route needs."""

    def __init__(self, message: str) -> None:
        """Answer 422, as 0.3.0 did."""
        super().__init__(message, status=422, wire_code="unprocessable")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)


def describe_validation(error: ValidationError) -> str:
    """Return what pydantic found wrong as one line, without the input's values."""
    problems = [
        f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    more = len(problems) - MAX_SHOWN_PROBLEMS
    shown = "; ".join(problems[:MAX_SHOWN_PROBLEMS])
    return f"{shown}; and {more} more" if more > 0 else shown


def error_to_wire(error: Exception, request_id: str | None = None) -> tuple[int, dict[str, str]]:
    """Return the status and body for an error; what is not meant for callers is only logged."""
    status, fields = _describe(error, request_id)
    return status, fields if request_id is None else {**fields, "request_id": request_id}


def _describe(error: Exception, request_id: str | None) -> tuple[int, dict[str, str]]:
    if isinstance(error, ValidationError):
        error = UnprocessableError(describe_validation(error))
    if isinstance(error, WireError):
        return error.status, {"detail": str(error), "code": error.wire_code}
    for kind, status in STATUS_BY_CLASS.items():
        if isinstance(error, kind):
            code = error.code if isinstance(error, AgentLightningError) else "not_implemented"
            detail = str(error) or "This store does not support the operation."
            return status, {"detail": detail, "code": code}
    # Compat 0.3.0: stores of users raise plain ValueErrors for ids they do not know.
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return 400, {"detail": str(error), "code": InvalidRequestError.code}
    error_id = request_id or generate_id(12)
    logger.error("request failed", exc_info=error, extra={"error_id": error_id})
    detail = "Internal server error"
    return 500, {"detail": detail, "code": "internal_error", "error_id": error_id}


def error_from_wire(status: int, body: Any) -> Exception:
    """Return the error that the store raised on the other end, ready to be raised again."""
    fields: dict[str, Any] = body if isinstance(body, dict) else {}
    detail = str(fields.get("detail") or f"The store answered with status {status}.")
    if "error_id" in fields:
        detail = f"{detail} (error {fields['error_id']} in the server's log)"
    kind = CLASS_BY_CODE.get(str(fields.get("code")))
    if kind is None:
        kind = _class_for_status(status)
    return kind(detail)


def _class_for_status(status: int) -> type[Exception]:
    if status in RETRYABLE_STATUSES:
        return StoreUnavailableError
    for kind, known in STATUS_BY_CLASS.items():
        if known == status:
            return kind
    return InvalidRequestError if 400 <= status < 500 else StoreError
