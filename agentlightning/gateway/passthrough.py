"""Requests that are not recorded: calls of no attempt, and paths in no captured wire format."""

from __future__ import annotations

import logging

from agentlightning.errors import GatewayPausedError, RequestError, UpstreamError
from agentlightning.gateway.capture import CallServices, ClientRequest, read_body
from agentlightning.gateway.dialects.responses import is_native
from agentlightning.gateway.failure import CallFailure
from agentlightning.gateway.jsontext import write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.reply import Reply
from agentlightning.gateway.routes import forwarded_headers
from agentlightning.gateway.upstream import UpstreamRequest

__all__ = ["pass_through"]

logger = logging.getLogger(__name__)


async def pass_through(services: CallServices, request: ClientRequest, reply: Reply) -> None:
    """Forward a request to the model it names, or to the default one, and stream the answer."""
    try:
        route, body = _find_route(services, request)
        # Whatever posts to a model that is being updated has to wait, recorded or not.
        if route.trained and request.method == "POST":
            await services.gate.enter(services.pause_wait_seconds)
            try:
                await _forward(route, request, body, reply)
            finally:
                services.gate.leave()
        else:
            await _forward(route, request, body, reply)
    except (RequestError, UpstreamError, GatewayPausedError) as error:
        if reply.has_started:
            # The status is out: only an answer without an end can say now that it is not whole.
            logger.warning("passed-through answer broke off", extra={"reason": str(error)})
            return
        failure = CallFailure.from_error(error)
        details = {"message": failure.message, "type": failure.error_type, "code": failure.code}
        await reply.json(failure.status, {"error": {**details, "param": None}}, failure.headers)


async def _forward(route: ModelRoute, request: ClientRequest, body: bytes, reply: Reply) -> None:
    response = await route.upstream.send(
        UpstreamRequest(
            method=request.method,
            path=request.path,
            query=request.query,
            headers=forwarded_headers(request.headers),
            body=body,
        )
    )
    try:
        await reply.start(response.status, response.headers)
        async for piece in response.body:
            await reply.piece(piece)
        await reply.end()
    finally:
        await response.aclose()


def _find_route(services: CallServices, request: ClientRequest) -> tuple[ModelRoute, bytes]:
    """Return the route, and the body with the name that the upstream knows the model by."""
    kind = request.headers.get("content-type", "")
    if not request.body or not kind.startswith("application/json"):
        return _find_unnamed(services, request), request.body
    body = read_body(request.body)
    name = str(body.get("model") or "")
    route = services.models.find(name) if name else _find_unnamed(services, request)
    if not name or name == route.model:
        return route, request.body
    return route, write_json({**body, "model": route.model})


def _find_unnamed(services: CallServices, request: ClientRequest) -> ModelRoute:
    """Return the route of a request that names no model."""
    if request.path.startswith("/v1/responses/"):
        # A stored response is known to the server that gave it, and to no other.
        keeper = next(filter(is_native, services.models.routes.values()), None)
        if keeper is not None:
            return keeper
    return services.models.find(None)
