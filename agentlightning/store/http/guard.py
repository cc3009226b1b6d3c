"""Who may call: the bearer token, and web pages of other sites.

There is one token for everything a server offers. Without one every caller on the bound
interface is trusted, which is why a public bind needs one.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agentlightning.errors import UnauthorizedError
from agentlightning.store.http.errors import WireError, error_to_wire
from agentlightning.store.http.exchange import Reply, header_map
from agentlightning.store.http.operation import API_PREFIX, send_reply
from agentlightning.store.http.wire import encode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Guard", "tokens_match"]

OPEN_PATHS: Final = frozenset({"/", f"{API_PREFIX}/health"})
"""Paths that need no token; they tell nothing but that a server is there."""


def tokens_match(given: bytes, expected: str) -> bool:
    """Compare a received secret in a time that does not depend on where it differs."""
    return hmac.compare_digest(given, expected.encode())


class Guard:
    """ASGI middleware that lets only allowed requests through.

    Args:
        app: What is guarded.
        token: The bearer token, or None for no authentication.
        allowed_origins: Origins of other sites whose pages may call; `*` allows all.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None = None, allowed_origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on, and answer any other."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, fields = error_to_wire(refusal)
        headers = {"www-authenticate": "Bearer"} if status == 401 else {}
        await send_reply(Reply(encode(fields), status, headers=headers), send)

    def _refusal(self, scope: Scope) -> Exception | None:
        headers = header_map(scope)
        origin = headers.get("origin")
        # Why: without this, any page that a user opens could post to a store on localhost.
        if origin is not None and not self._is_allowed(origin, headers.get("host", "")):
            return WireError(
                f"Pages of {origin} may not call this store: allow the origin for CORS.",
                status=403,
                wire_code="forbidden_origin",
            )
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given_bytes = given.strip().encode("latin-1")
        if scheme.lower() == "bearer" and tokens_match(given_bytes, self._token):
            return None
        return UnauthorizedError("A valid token is needed: send Authorization: Bearer <token>.")

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        return urlsplit(origin).netloc == host
