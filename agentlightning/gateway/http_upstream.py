"""A model server reached over HTTP: vLLM, SGLang, llama.cpp, OpenAI itself, anything that speaks so.

Streams are passed on as they arrive. Nothing here reads what an answer says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from agentlightning.errors import ConfigurationError, UpstreamError
from agentlightning.gateway.routes import forwarded_headers
from agentlightning.gateway.upstream import (
    UpstreamCapabilities,
    UpstreamRequest,
    UpstreamResponse,
)

__all__ = ["HttpUpstream"]

logger = logging.getLogger(__name__)

_KEY_HEADERS = ("authorization", "x-api-key", "api-key")
_RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
_FIRST_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 8.0
# Below the 5 s after which uvicorn, and so vLLM, closes an idle connection under a request.
_IDLE_SECONDS = 4.0


class HttpUpstream:
    """A model server at a URL. Usable from any event loop; each loop gets its own connections.

    Args:
        base_url: With the version, as clients are given it: `http://host:8000/v1`. A URL without
            a path gets `/v1`.
        api_key: Sent in place of the client's own; None passes the client's on.
        capabilities: What the server can say about tokens; nothing unless given.
        timeout: Longest silence of the server, in seconds.
        connect_timeout: Seconds to wait for a connection.
        retries: How often a call that failed before its answer began is made again.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        capabilities: UpstreamCapabilities | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 10.0,
        retries: int = 0,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ConfigurationError(
                f"{base_url!r} is not the URL of a model server. Write http://host:port/v1."
            )
        prefix = base_url.rstrip("/")
        self._base = prefix if parts.path.strip("/") else f"{prefix}/v1"
        self._capabilities = capabilities or UpstreamCapabilities()
        self._api_key = api_key
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=timeout
        )
        self._retries = retries
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    @property
    def name(self) -> str:
        """Return its URL."""
        return self._base

    @property
    def capabilities(self) -> UpstreamCapabilities:
        """Return what was given."""
        return self._capabilities

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Start a call, again where `retries` allow it. See `Upstream.send`."""
        wait = _FIRST_RETRY_SECONDS
        for left in range(self._retries, -1, -1):
            try:
                response = await self._send_once(request)
                if not left or response.status not in _RETRIED_STATUSES:
                    return response
                wait = _retry_after(response.headers, wait)
                await response.aclose()
            except UpstreamError:
                if not left:
                    raise
            logger.info("model call retried", extra={"upstream": self._base, "left": left})
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_RETRY_SECONDS)
        raise UpstreamError(f"{self._base} was not called: retries is {self._retries}.")

    async def aclose(self) -> None:
        """Close this loop's connections; a later call opens new ones."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def _send_once(self, request: UpstreamRequest) -> UpstreamResponse:
        try:
            response = await self._session().request(
                request.method,
                self._url(request),
                headers=self._headers(request),
                data=request.body or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from error
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        return UpstreamResponse(
            status=response.status,
            headers=forwarded_headers(answer_headers),
            body=self._pieces(response),
            on_close=_release(response),
        )

    def _headers(self, request: UpstreamRequest) -> dict[str, str]:
        headers = {**request.headers, "accept-encoding": "identity"}
        if self._api_key is None:
            return headers
        for own in _KEY_HEADERS:
            headers.pop(own, None)
        # Anthropic's servers read keys from a header of their own, and refuse a call with both.
        if request.path.startswith("/v1/messages"):
            return {**headers, "x-api-key": self._api_key}
        return {**headers, "authorization": f"Bearer {self._api_key}"}

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for piece in response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return UpstreamError(f"The model server {self._base} took too long.")
        return UpstreamError(f"The model server {self._base} failed: {error or type(error)}.")

    def _url(self, request: UpstreamRequest) -> URL:
        if request.path.startswith("/v1/"):
            address = self._base + request.path[3:]
        else:
            address = self._base.removesuffix("/v1") + request.path
        return URL(f"{address}?{request.query}" if request.query else address, encoded=True)

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
                timeout=self._timeout,
                # Compressed answers are asked not to come; one that does must still be readable.
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session


def _retry_after(headers: Mapping[str, str], otherwise: float) -> float:
    said = headers.get("retry-after", "")
    return min(float(said), _LONGEST_RETRY_SECONDS) if said.isdigit() else otherwise


def _release(response: aiohttp.ClientResponse):
    async def release() -> None:
        # Releasing an answer that was not read to its end closes the connection, which is how a
        # server learns that nobody waits for the rest.
        response.release()

    return release
