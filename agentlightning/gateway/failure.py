"""What a client is told when its call went wrong on our side of the model server."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from agentlightning.errors import AgentLightningError, NotFoundError, RequestError, UpstreamError

__all__ = ["CallFailure"]


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
            return cls(504 if timed_out else 502, "server_error", error.code, str(error))
        return cls(503, "server_error", error.code, str(error))

    @property
    def headers(self) -> dict[str, str]:
        """Return what goes with the body."""
        again = {"retry-after": "1"} if self.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        return {"content-type": "application/json", **again}
