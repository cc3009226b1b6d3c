"""One route of the API as a value, and the ASGI endpoint that serves it.

Bodies are validated by the handlers, not by FastAPI, which would cost more than the store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.errors import error_to_wire
from agentlightning.store.http.exchange import (
    JSON_TYPE,
    Exchange,
    Reply,
    Stream,
    header_map,
    raw_header,
    read_body,
    until_gone,
)
from agentlightning.store.http.site import first_of
from agentlightning.store.http.wire import encode
from agentlightning.store.idempotency import idempotency_key

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from agentlightning.store.http.site import Site

__all__ = [
    "API_PREFIX",
    "IDEMPOTENCY_HEADER",
    "REQUEST_ID_HEADER",
    "RUN_ID_HEADER",
    "Endpoint",
    "Operation",
    "send_reply",
]

logger = logging.getLogger(__name__)

API_PREFIX: Final = "/v1/agl"
IDEMPOTENCY_HEADER: Final = "idempotency-key"
REQUEST_ID_HEADER: Final = "x-request-id"
RUN_ID_HEADER: Final = "x-agl-run-id"
_IDEMPOTENCY: Final = IDEMPOTENCY_HEADER.encode()
_REQUEST_ID: Final = REQUEST_ID_HEADER.encode()
_JSON: Final = (b"content-type", JSON_TYPE.encode())
MAX_KEY_CHARACTERS: Final = 255


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
    query: type[BaseModel] | None = None
    """Model of the query of a route that takes a body too."""
    status: int = 200
    content_type: str = JSON_TYPE
    """Of the answer, for the API description."""
    refuse: Callable[[str, int, str], Reply] | None = None
    """Makes the answer to a request that failed, of its content type, the status and a sentence;
    None answers as all routes do."""
    replayable: bool = False
    """Whether a request with a known idempotency key gets the first answer again; for writes
    that would do something else the second time."""
    remembered: bool = True
    """Whether stores that keep replies know a replayable call again by its key."""


class Endpoint:
    """Serves one operation as an ASGI application; `path` is where, as metrics name it."""

    def __init__(self, site: Site, operation: Operation, path: str) -> None:
        self._site = site
        self._operation = operation
        self._path = path
        self._has_body = operation.method != "GET"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes an answer too."""
        if "agl.seen" in scope:
            scope["agl.seen"]["path"] = self._path
        request_id: str | None = scope.get("agl.request_id")
        try:
            if self._has_body:
                body = await read_body(scope, receive, self._site.body_limit)
                answer = await self._answer(Exchange(self._site, scope, receive, body), scope)
            else:
                answer = await self._handle(Exchange(self._site, scope, receive, b""))
        except Exception as error:  # noqa: BLE001 - boundary: it is answered, and logged if 500.
            answer = self._refusal(error, request_id, scope)
        if isinstance(answer, Stream):
            await _send_stream(answer, receive, send, request_id)
        else:
            await send_reply(answer, send, request_id)

    async def _answer(self, exchange: Exchange, scope: Scope) -> Reply | Stream:
        key = raw_header(scope, _IDEMPOTENCY).decode("latin-1")
        if not key:
            return await self._handle(exchange)
        if len(key) > MAX_KEY_CHARACTERS:
            raise InvalidRequestError(
                f"The Idempotency-Key is longer than {MAX_KEY_CHARACTERS} characters."
            )
        # Why: a caller who names a key after a task may well use it for several routes.
        full_key = f"{scope['path']} {key}"
        with idempotency_key(full_key):
            if not self._operation.replayable:
                return await self._handle(exchange)
            exchange.replay_key = full_key
            keep = not (self._operation.remembered and self._site.keeps_replies())
            return await self._site.ledger.once(
                full_key, lambda: self._produce(exchange), keep=keep
            )

    def _refusal(self, error: Exception, request_id: str | None, scope: Scope) -> Reply:
        status, fields = error_to_wire(error, request_id)
        logger.debug("request refused", extra={"request_id": request_id, "status": status})
        if self._operation.refuse is None:
            return Reply(encode(fields), status)
        content_type = header_map(scope).get("content-type", "")
        return self._operation.refuse(content_type, status, fields["detail"])

    async def _produce(self, exchange: Exchange) -> Reply:
        answer = await self._handle(exchange)
        assert isinstance(answer, Reply)
        return answer

    async def _handle(self, exchange: Exchange) -> Reply | Stream:
        answer = await self._operation.handler(exchange)
        if isinstance(answer, (Reply, Stream)):
            return answer
        return Reply(encode(answer), self._operation.status)


async def _send_stream(
    stream: Stream, receive: Receive, send: Send, request_id: str | None
) -> None:
    headers = {"cache-control": "no-store"}
    await send(_start(200, stream.content_type, headers, request_id))

    async def pump() -> None:
        async with contextlib.aclosing(stream.source) as source:
            async for chunk in source:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

    _, ended = await first_of(pump(), until_gone(receive))
    if ended:
        await send({"type": "http.response.body", "body": b""})


def _start(
    status: int, content_type: str, headers: Mapping[str, str], request_id: str | None
) -> dict[str, Any]:
    pairs = [_JSON if content_type == JSON_TYPE else (b"content-type", content_type.encode())]
    if headers:
        pairs += [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]
    if request_id is not None:
        pairs.append((_REQUEST_ID, request_id.encode()))
    return {"type": "http.response.start", "status": status, "headers": pairs}


async def send_reply(reply: Reply, send: Send, request_id: str | None = None) -> None:
    """Send a complete answer."""
    start = _start(reply.status, reply.content_type, reply.headers, request_id)
    start["headers"].append((b"content-length", b"%d" % len(reply.body)))
    await send(start)
    await send({"type": "http.response.body", "body": reply.body})
