"""The HTTP interface of a vLLM server, as far as training needs it: calls, streams, errors.

Knows statuses and JSON, not tokens; `vllm_tokens` reads completions, `vllm` updates weights.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any

import orjson

from agentlightning.errors import ContextLengthError, GatewayError, RequestError, UpstreamError
from agentlightning.gateway.dialects.translated import read_error
from agentlightning.gateway.failure import code_of_answer
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.stream import EventSplitter
from agentlightning.gateway.upstream import UpstreamRequest, UpstreamResponse

__all__ = ["VLLMServer"]

Body = dict[str, Any]

_RETRIES = 4
"""Of a completion whose answer has not begun; they span about four seconds."""


class VLLMServer:
    """A vLLM server at a URL; usable from any event loop, each with connections of its own."""

    def __init__(self, base_url: str, *, api_key: str | None = None, timeout: float = 600.0):
        """Remember where it is; nothing is sent.

        Args:
            base_url: `http://host:8000`, with or without `/v1`.
            api_key: What the server was started with as `--api-key`.
            timeout: Longest silence of the server, in seconds.

        Raises:
            ConfigurationError: This is no URL.
        """
        options: Body = {"api_key": api_key or "-", "timeout": timeout}
        self._sampling = HttpUpstream(base_url, retries=_RETRIES, **options)
        # An order whose answer was lost must not be given twice without looking.
        self._control = HttpUpstream(base_url, **options)

    @property
    def name(self) -> str:
        """Return its URL."""
        return self._control.name

    async def call(self, method: str, path: str, body: Body | None = None) -> Any:
        """Give an order or ask a question; returns the decoded answer, None if there is none.

        Raises:
            RequestError: The server refuses; `status` and message are its own.
            UpstreamError: It failed or cannot be reached.
        """
        return await self._whole(self._control, method, path, body)

    async def complete(self, body: Body) -> Body:
        """Return a completion in one piece; see `call` for errors."""
        return await self._whole(self._sampling, "POST", "/v1/completions", body)

    async def stream(self, body: Body) -> AsyncGenerator[Body]:
        """Yield a completion's chunks; closing the iterator cancels it at the server.

        Raises:
            RequestError: The server refuses.
            UpstreamError: It failed, cannot be reached, or the stream broke off.
        """
        response = await self._send(self._sampling, "POST", "/v1/completions", body)
        try:
            await self._check(response)
            events = EventSplitter()
            async for piece in response.body:
                for event in events.feed(piece):
                    if event.data == b"[DONE]":
                        return
                    if event.data is not None:
                        yield self._chunk(event.data)
            raise UpstreamError(f"The stream of {self.name} broke off before its end.")
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections; a later call opens new ones."""
        await self._sampling.aclose()
        await self._control.aclose()

    async def _whole(
        self, upstream: HttpUpstream, method: str, path: str, body: Body | None
    ) -> Any:
        response = await self._send(upstream, method, path, body)
        try:
            await self._check(response)
            data = await response.read()
        finally:
            await response.aclose()
        return self._decoded(data) if "json" in response.headers.get("content-type", "") else None

    async def _send(
        self, upstream: HttpUpstream, method: str, path: str, body: Body | None
    ) -> UpstreamResponse:
        path, _, query = path.partition("?")
        return await upstream.send(
            UpstreamRequest(
                method=method,
                path=path,
                query=query,
                headers={"content-type": "application/json"},
                body=b"" if body is None else orjson.dumps(body),
            )
        )

    async def _check(self, response: UpstreamResponse) -> None:
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise self._refusal(response.status, await response.read())

    def _chunk(self, data: bytes) -> Body:
        chunk = self._decoded(data)
        if "error" in chunk:
            error: Any = chunk["error"]
            status = error.get("code") if isinstance(error, dict) else None
            raise self._refusal(status if isinstance(status, int) else 500, data)
        return chunk

    def _decoded(self, data: bytes) -> Any:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UpstreamError(f"{self.name} answered with something else than JSON.") from error

    def _refusal(self, status: int, body: bytes) -> GatewayError:
        message, kind, _ = read_error(status, body)
        code = code_of_answer(status, body)
        if code == ContextLengthError.code:
            return ContextLengthError(message)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return UpstreamError(f"{self.name} answered {status}: {message}")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return RequestError(
            message, status=status, error_code=code, error_type=kind or "invalid_request_error"
        )
