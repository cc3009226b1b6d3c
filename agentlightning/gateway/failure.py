"""What went wrong with a call, in one word, and what its client is told.

The words are those of `CallRecord.error_code`, whichever server said what in whose format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from agentlightning.errors import (
    AgentLightningError,
    ContextLengthError,
    NotFoundError,
    RequestError,
    UpstreamError,
)
from agentlightning.gateway.dialects.translated import read_error

__all__ = ["TIMEOUT", "CallFailure", "code_of_answer"]

TIMEOUT: Final = "timeout"
"""The model server was silent for too long."""

# How servers say that a prompt, or a prompt with its answer, is longer than the model's context:
# vLLM, SGLang, llama.cpp, TGI, Anthropic, Gemini and OpenAI's Responses, in their words of 2026.
_overflow = re.compile(
    r"maximum context length|maximum model length|context[ _]window|model's context length"
    r"|exceeds? (?:the )?(?:available |maximum )?context|prompt is too long|input is too long"
    r"|max_new_tokens` must be <=|exceeds the maximum number of tokens",
    re.IGNORECASE,
).search
_OVERFLOW_TYPES = frozenset({"exceed_context_size_error", "request_too_large"})
_OVERFLOW_STATUSES = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class CallFailure:
    """A status and the parts of an error body; OpenAI clients retry 5xx on their own."""

    status: int
    error_type: str
    code: str
    message: str

    @classmethod
    def from_error(cls, error: AgentLightningError) -> CallFailure:
        """Return how an error is answered.

        Example:
            >>> CallFailure.from_error(UpstreamError("gone")).status
            502
        """
        if isinstance(error, RequestError):
            return cls(error.status, error.error_type, error.error_code or error.code, str(error))
        if isinstance(error, NotFoundError):
            return cls(404, "invalid_request_error", error.code, str(error))
        if isinstance(error, UpstreamError):
            timed_out = isinstance(error.__cause__, TimeoutError)
            code = TIMEOUT if timed_out else error.code
            return cls(504 if timed_out else 502, "server_error", code, str(error))
        return cls(503, "server_error", error.code, str(error))

    @property
    def headers(self) -> dict[str, str]:
        """Return what goes with the body."""
        again = {"retry-after": "1"} if self.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        return {"content-type": "application/json", **again}


def code_of_answer(status: int, body: bytes) -> str:
    """Return what a model server's error means: a value of `CallRecord.error_code`.

    Example:
        >>> code_of_answer(400, b'{"message": "The prompt is longer than the maximum context length"}')
        'context_length_exceeded'
        >>> code_of_answer(429, b"slow down")
        'rate_limited'
    """
    message, kind, code = read_error(status, body)
    if code == ContextLengthError.code or kind in _OVERFLOW_TYPES:
        return ContextLengthError.code
    if status in _OVERFLOW_STATUSES and _overflow(message):
        return ContextLengthError.code
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limited"
    if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT}:
        return TIMEOUT
    return UpstreamError.code if status >= HTTPStatus.INTERNAL_SERVER_ERROR else RequestError.code
