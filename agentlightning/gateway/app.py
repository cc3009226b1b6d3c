"""The gateway as an ASGI application: reads addresses, and hands each request to what serves it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any, cast

from agentlightning._internal.clock import now
from agentlightning.errors import NotFoundError, RequestError, StoreUnavailableError
from agentlightning.gateway.capture import CallServices, CapturedCall, ClientRequest, read_body
from agentlightning.gateway.count_tokens import COUNT_TOKENS_PATH, count_tokens
from agentlightning.gateway.dialects.base import Dialect
from agentlightning.gateway.dialects.openai_exchange import error_body
from agentlightning.gateway.failure import CallFailure
from agentlightning.gateway.passthrough import pass_through
from agentlightning.gateway.peers import PEER_HEADER, add_seals
from agentlightning.gateway.recorder import GatewayStats
from agentlightning.gateway.replay import KEY_HEADER, REPLAYED_HEADER
from agentlightning.gateway.reply import Receive, Reply, Send
from agentlightning.gateway.routes import Target, read_headers, read_target
from agentlightning.gateway.seal import AttemptKey
from agentlightning.gateway.upstream import RemembersConversations

__all__ = ["GatewayApp"]

_LONGEST_SEAL_SECONDS = 600.0
_DEFAULT_SEAL_SECONDS = 30.0


class GatewayApp:
    """Serves HTTP requests; belongs to one event loop.

    Args:
        services: What calls need.
        dialects: The wire formats to capture.
        stats: Counts what is not captured.
        secret: What clients must send as their API key; None asks for none.
    """

    def __init__(
        self,
        services: CallServices,
        dialects: Sequence[Dialect],
        stats: GatewayStats,
        secret: str | None = None,
    ) -> None:
        self._services = services
        self._dialects = {path: dialect for dialect in dialects for path in dialect.paths}
        self._stats = stats
        self._secret = secret
        self._started_at = int(now())

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; anything but HTTP is refused."""
        if scope["type"] != "http":
            raise NotImplementedError(f"The gateway does not serve {scope['type']} connections.")
        body = await _receive_body(receive)
        if body is None:
            return
        reply = Reply(send)
        serving = cast("asyncio.Task[None]", asyncio.current_task())
        leaving = asyncio.create_task(_wait_until_gone(receive, reply, serving))
        try:
            await self._serve(scope, body, reply)
        except asyncio.CancelledError:
            # Whoever cancelled waits for this task to end, which it does now.
            serving.uncancel()
            if not reply.is_unwanted and not reply.has_started:
                stopping = RequestError(
                    "The gateway is stopping. Make the call again when it is back.",
                    status=503,
                    error_code="stopping",
                    error_type="server_error",
                )
                await self._refuse(stopping, scope["path"], reply)
        finally:
            leaving.cancel()

    async def _serve(self, scope: dict[str, Any], body: bytes, reply: Reply) -> None:
        headers = read_headers(scope["headers"])
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        try:
            target = read_target(raw_path.decode("latin-1"), headers)
            if target.path != "/health":
                self._check_secret(headers)
            request = ClientRequest(
                method=scope["method"],
                path=target.path,
                query=scope["query_string"].decode("latin-1"),
                headers=headers if self._secret is None else _without_secret(headers),
                body=body,
                role=target.role,
            )
            await self._dispatch(target, request, reply)
        except RequestError as error:
            await self._refuse(error, scope["path"], reply)

    async def _refuse(self, error: RequestError, path: str, reply: Reply) -> None:
        """Say what a client did wrong in the shape that clients of the path read."""
        asked = path.removesuffix("/count_tokens")
        dialect = next((it for own, it in self._dialects.items() if asked.endswith(own)), None)
        if dialect is None:
            await reply.refuse(error)
            return
        failure = CallFailure.from_error(error)
        details = {"error_type": failure.error_type, "code": failure.code}
        body = dialect.error_body(failure.message, **details)
        await reply.whole(failure.status, failure.headers, body)

    async def _dispatch(self, target: Target, request: ClientRequest, reply: Reply) -> None:
        if request.method == "POST":
            dialect = self._dialects.get(target.path)
            if dialect is not None and (target.attempt is not None or dialect.is_translated):
                self._stats.unattributed += target.attempt is None
                if not await self._replay(target, request, reply):
                    call = CapturedCall(self._services, dialect, target.attempt, request, reply)
                    await call.serve()
                return
            if target.path == "/seal" and target.attempt is not None:
                await self._seal(target.attempt, request, reply)
                return
            if target.path == COUNT_TOKENS_PATH:
                self._stats.passed_through += 1
                conversation = "/".join(target.attempt) if target.attempt else None
                await count_tokens(self._services, request, reply, conversation)
                return
            if dialect is not None:
                self._stats.unattributed += 1
        elif request.method == "GET":
            answer = self._own_answer(target.path)
            if answer is not None:
                await reply.json(200, answer)
                return
        if not await self._stored_response(target, request, reply):
            self._stats.passed_through += 1
            await pass_through(self._services, request, reply)

    async def _stored_response(self, target: Target, request: ClientRequest, reply: Reply) -> bool:
        """Answer for a response that we gave, and return whether this was about one."""
        responses = self._services.responses
        try:
            answer = await responses.answer(
                request.method,
                target.path,
                target.attempt,
                query=request.query,
                from_peer=PEER_HEADER in request.headers,
            )
        except (NotFoundError, StoreUnavailableError) as error:
            failure = CallFailure.from_error(error)
            body = error_body(failure.message, error_type=failure.error_type, code=failure.code)
            await reply.whole(failure.status, failure.headers, body)
            return True
        if answer is not None:
            await reply.json(200, answer)
        return answer is not None

    async def _replay(self, target: Target, request: ClientRequest, reply: Reply) -> bool:
        """Answer a call that was answered before, and return whether this was one."""
        key = request.headers.get(KEY_HEADER)
        if key is None or target.attempt is None:
            return False
        kept = self._services.replays.find((target.attempt, key), request.body)
        if kept is None:
            return False
        self._stats.replayed += 1
        await reply.whole(kept.status, {**kept.headers, REPLAYED_HEADER: "true"}, kept.body)
        return True

    def _own_answer(self, path: str) -> dict[str, Any] | None:
        """Return what the gateway itself answers to a GET, or None."""
        if path == "/health":
            return {"status": "ok"}
        if path.rstrip("/") == "/v1/models":
            return {"object": "list", "data": [self._card(name) for name in self._names()]}
        name = path.removeprefix("/v1/models/")
        if name != path and name in self._names():
            return self._card(name)
        return None

    def _names(self) -> Sequence[str]:
        return list(self._services.models.routes)

    def _card(self, name: str) -> dict[str, Any]:
        created = self._started_at
        return {"id": name, "object": "model", "created": created, "owned_by": "agentlightning"}

    async def _seal(self, attempt: AttemptKey, request: ClientRequest, reply: Reply) -> None:
        body = request.body
        timeout = read_body(body).get("timeout", _DEFAULT_SEAL_SECONDS) if body else 0.0
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout < 0:
            raise RequestError("timeout must be a number of seconds, 0 or more.", param="timeout")
        bounded = min(float(timeout), _LONGEST_SEAL_SECONDS)
        # A peer that asks adds up by itself.
        everyone = PEER_HEADER not in request.headers
        tally, others = await asyncio.gather(
            self._services.ledger.seal(attempt, bounded),
            self._services.peers.seal(attempt, bounded) if everyone else _nobody(),
        )
        if not tally.in_flight:
            self._forget("/".join(attempt))
        await reply.json(200, add_seals(tally, others))

    def _forget(self, conversation: str) -> None:
        """Tell the upstreams that remember conversations that one has ended."""
        for route in self._services.models.routes.values():
            if isinstance(route.upstream, RemembersConversations):
                route.upstream.forget(conversation)

    def _check_secret(self, headers: dict[str, str]) -> None:
        if self._secret is None:
            return
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = bearer or headers.get("x-api-key", "") or headers.get("api-key", "")
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            raise RequestError(
                "The API key is not the gateway's secret. Use the api_key of the LLM resource.",
                status=401,
                error_code="invalid_api_key",
            )


async def _nobody() -> list[dict[str, Any] | None]:
    return []


def _without_secret(headers: dict[str, str]) -> dict[str, str]:
    secret = {"authorization", "x-api-key", "api-key"}
    return {name: value for name, value in headers.items() if name not in secret}


async def _receive_body(receive: Receive) -> bytes | None:
    """Return the request's body, or None when the client left while sending it."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces) if len(pieces) > 1 else pieces[0]


async def _wait_until_gone(receive: Receive, reply: Reply, serving: asyncio.Task[None]) -> None:
    """Cancel the serving of a client that hangs up before the end of its answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not reply.has_ended:
        reply.is_unwanted = True
        serving.cancel()
