"""Providers with formats of their own, through LiteLLM in this process (extra `litellm`).

LiteLLM translates; capture, balance and everything else stay the gateway's. Servers that speak
OpenAI's or Anthropic's format are better called directly: `HttpUpstream` passes bytes through.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from agentlightning._internal.extra import require_extra
from agentlightning.errors import ContextLengthError, UpstreamError
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.upstream import (
    UpstreamCapabilities,
    UpstreamRequest,
    UpstreamResponse,
)

__all__ = ["LiteLLMUpstream"]

_FUNCTIONS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "acompletion",
    "/v1/completions": "atext_completion",
    "/v1/embeddings": "aembedding",
}
"""What of LiteLLM answers a path."""


class LiteLLMUpstream:
    """One model of one provider. Usable from any event loop.

    Args:
        model: With the provider, as LiteLLM writes it: `bedrock/anthropic.claude-…`.
        params: More arguments of `litellm.acompletion`: `api_key`, `api_base`, `aws_region_name`, …
        capabilities: What it can say about tokens.

    Raises:
        MissingExtraError: LiteLLM is not installed.
    """

    def __init__(
        self,
        model: str,
        params: Mapping[str, Any] | None = None,
        *,
        capabilities: UpstreamCapabilities | None = None,
    ) -> None:
        require_extra("litellm", "litellm")
        self._model = model
        # Unless told otherwise it would try again by itself, unseen by records and deadlines.
        self._params = {"max_retries": 0, **(params or {})}
        self._capabilities = capabilities or UpstreamCapabilities()

    @property
    def name(self) -> str:
        """Return the model's name."""
        return f"litellm {self._model}"

    @property
    def capabilities(self) -> UpstreamCapabilities:
        """Return what was given."""
        return self._capabilities

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Start a call; see `Upstream.send`. The client's headers are not sent on."""
        function = _FUNCTIONS.get(request.path)
        if function is None:
            message = f"{request.path} is not served by LiteLLM. Use {', '.join(_FUNCTIONS)}."
            return _error_answer(HTTPStatus.NOT_FOUND, message, "not_found")
        asked: dict[str, Any] = {**parse_json(request.body), **self._params, "model": self._model}
        try:
            answer = await getattr(_litellm(), function)(**asked)
        except Exception as error:  # noqa: BLE001 - boundary: LiteLLM raises each provider's errors.
            return _answer_to(error)
        if asked.get("stream"):
            kind = "text/event-stream; charset=utf-8"
            return UpstreamResponse(
                status=200, headers={"content-type": kind}, body=_events(answer, self._model)
            )
        body = answer.model_dump_json(exclude_none=True).encode()
        return UpstreamResponse(
            status=200, headers={"content-type": "application/json"}, body=_once(body)
        )

    async def aclose(self) -> None:
        """Do nothing: connections are LiteLLM's, and shared by all that use it."""


def _litellm() -> Any:
    litellm: Any = importlib.import_module("litellm")
    # Otherwise it prints advice for its own users into our log.
    litellm.suppress_debug_info = True
    return litellm


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _events(chunks: Any, model: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield b"data: " + chunk.model_dump_json(exclude_none=True).encode() + b"\n\n"
    except Exception as error:
        # Boundary: LiteLLM raises each provider's errors.
        raise UpstreamError(f"LiteLLM's stream of {model} broke off: {error}") from error
    yield b"data: [DONE]\n\n"


def _answer_to(error: Exception) -> UpstreamResponse:
    """Return an error as a model server would have answered it.

    Raises:
        UpstreamError: There was no answer: the provider cannot be reached, or took too long.
    """
    status = getattr(error, "status_code", None)
    # LiteLLM puts a stand-in in the place of the provider's response, but keeps its headers.
    told: Any = getattr(error, "litellm_response_headers", None)
    told = told or getattr(getattr(error, "response", None), "headers", {})
    if not isinstance(status, int):
        raise UpstreamError(f"LiteLLM failed: {type(error).__name__}: {error}") from error
    is_overflow = type(error).__name__ == "ContextWindowExceededError"
    code = ContextLengthError.code if is_overflow else str(getattr(error, "code", None) or "")
    headers = {str(k).lower(): str(v) for k, v in told.items()}
    return _error_answer(status, str(error), code, headers.get("retry-after"))


def _error_answer(
    status: int, message: str, code: str, retry_after: str | None = None
) -> UpstreamResponse:
    is_client = status < HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "invalid_request_error" if is_client else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code or None}
    headers = {"content-type": "application/json"}
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return UpstreamResponse(
        status=status, headers=headers, body=_once(write_json({"error": error}))
    )
