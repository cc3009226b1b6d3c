"""The first that a request meets: its id, the guard, and the way to its endpoint.

What no route of the store takes goes on to the application behind, which may hold more routes.
"""

from __future__ import annotations

import itertools
import logging
import re
from typing import TYPE_CHECKING, Final

from agentlightning._internal.ids import generate_id
from agentlightning.errors import AgentLightningError
from agentlightning.store.http.errors import error_to_wire
from agentlightning.store.http.exchange import Reply
from agentlightning.store.http.operation import REQUEST_ID_HEADER, send_reply
from agentlightning.store.http.wire import encode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentlightning.store.http.guard import Guard
    from agentlightning.store.http.routing import RouteTable

__all__ = ["Front"]

logger = logging.getLogger(__name__)

_HEADER: Final = REQUEST_ID_HEADER.encode()
_REQUEST_ID: Final = "agl.request_id"
_ACCEPTED_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class Front:
    """ASGI middleware that knows the store's own routes."""

    def __init__(self, app: ASGIApp, *, guard: Guard, routes: RouteTable) -> None:
        self._app = app
        self._guard = guard
        self._routes = routes
        self._id_prefix = generate_id(8)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http" or _REQUEST_ID in scope:
            # Connections that are no requests, and requests that came through here already.
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scope["agl.headers"] = headers
        given = headers.get(_HEADER)
        request_id = (
            given.decode()
            if given is not None and _ACCEPTED_ID.fullmatch(given)
            else f"{self._id_prefix}-{next(self._numbers)}"
        )
        scope[_REQUEST_ID] = request_id
        raw: bytes | None = scope.get("raw_path")
        try:
            self._guard.check(headers, scope["path"])
            path = scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")
            found = self._routes.find(scope["method"], path)
        except (AgentLightningError, ValueError) as error:
            status, fields = error_to_wire(error, request_id)
            logger.debug("request refused", extra={"request_id": request_id, "status": status})
            extra = {"www-authenticate": "Bearer"} if status == 401 else {}
            await send_reply(Reply(encode(fields), status, headers=extra), send, request_id)
            return
        if found is None:
            await self._app(scope, receive, _naming(send, request_id))
            return
        endpoint, scope["path_params"] = found
        await endpoint(scope, receive, send)


def _naming(send: Send, request_id: str) -> Send:
    """Return a `send` that adds the request's id to the answer."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (_HEADER, request_id.encode())]
        await send(message)

    return named
