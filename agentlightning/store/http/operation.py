"""One route of the API as a value, and the ASGI endpoint that serves it.

Bodies are validated by the handlers, not by FastAPI, which would cost more than the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from agentlightning.store.http.errors import error_to_wire
from agentlightning.store.http.exchange import (
    Exchange,
    Reply,
    Stream,
    header_map,
    read_body,
    until_gone,
)
from agentlightning.store.http.site import first_of
from agentlightning.store.http.wire import encode

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from agentlightning.store.http.site import Site

__all__ = ["API_PREFIX", "IDEMPOTENCY_HEADER", "Endpoint", "Operation"]

API_PREFIX: Final = "/v1/agl"
IDEMPOTENCY_HEADER: Final = "idempotency-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A route: where it is, what it takes and gives, and the coroutine behind it."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    """Below `API_PREFIX`, with `{parameters}`."""
    handler: Callable[[Exchange], Awaitable[Any]]
    """Returns a `Reply`, a `Stream`, or a value that is sent as JSON with `status`."""
    summary: str
    returns: Any
    """Type of the answer, for the API description."""
    takes: Any = None
    """Type of the JSON body, or the model of the query of a GET."""
    status: int = 200
    replayable: bool = False
    """Whether a request with a known idempotency key gets the first answer again."""


class Endpoint:
    """Serves one operation as an ASGI application; `path` is where, as metrics name it."""

    def __init__(self, site: Site, operation: Operation, path: str) -> None:
        self._site = site
        self._operation = operation
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes an answer too."""
        if "agl.seen" in scope:
            scope["agl.seen"]["path"] = self._path
        try:
            reading = self._operation.method != "GET"
            body = await read_body(scope, receive, self._site.body_limit) if reading else b""
            exchange = Exchange(self._site, scope, receive, body)
            answer = await self._answer(exchange, scope)
        except Exception as error:  # noqa: BLE001 - boundary: it is answered, and logged if 500.
            status, fields = error_to_wire(error)
            answer = Reply(encode(fields), status)
        if isinstance(answer, Stream):
            await _send_stream(answer, receive, send)
        else:
            await send_reply(answer, send)

    async def _answer(self, exchange: Exchange, scope: Scope) -> Reply | Stream:
        if self._operation.replayable:
            key = header_map(scope).get(IDEMPOTENCY_HEADER)
            if key:
                scope["agl.replay_key"] = full_key = f"{scope['path']} {key}"
                return await self._site.ledger.once(full_key, lambda: self._produce(exchange))
        return await self._handle(exchange)

    async def _produce(self, exchange: Exchange) -> Reply:
        answer = await self._handle(exchange)
        assert isinstance(answer, Reply)
        return answer

    async def _handle(self, exchange: Exchange) -> Reply | Stream:
        answer = await self._operation.handler(exchange)
        if isinstance(answer, (Reply, Stream)):
            return answer
        return Reply(encode(answer), self._operation.status)


async def _send_stream(stream: Stream, receive: Receive, send: Send) -> None:
    await send(_start(200, stream.content_type, {"cache-control": "no-store"}))

    async def pump() -> None:
        async with contextlib.aclosing(stream.source) as source:
            async for chunk in source:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

    _, ended = await first_of(pump(), until_gone(receive))
    if ended:
        await send({"type": "http.response.body", "body": b""})


def _start(status: int, content_type: str, headers: dict[str, str]) -> dict[str, Any]:
    pairs = [(b"content-type", content_type.encode("latin-1"))]
    pairs += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a complete answer."""
    headers = {"content-length": str(len(reply.body)), **reply.headers}
    await send(_start(reply.status, reply.content_type, headers))
    await send({"type": "http.response.body", "body": reply.body})
