"""Anthropic's `POST /v1/messages/count_tokens`: a question about a prompt, not a model call.

It is answered by whoever has the tokenizer and leaves no record.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from agentlightning.errors import GatewayError, RequestError, UpstreamError
from agentlightning.gateway.capture import CallServices, ClientRequest, read_body
from agentlightning.gateway.dialects.anthropic import is_native
from agentlightning.gateway.dialects.anthropic_error import error_body, type_of_status
from agentlightning.gateway.dialects.anthropic_request import to_chat_request
from agentlightning.gateway.dialects.openai_chat import ChatExchange
from agentlightning.gateway.dialects.translated import read_error
from agentlightning.gateway.failure import CallFailure
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.passthrough import pass_through
from agentlightning.gateway.reply import Reply
from agentlightning.gateway.routes import forwarded_headers
from agentlightning.gateway.upstream import UpstreamRequest

__all__ = ["COUNT_TOKENS_PATH", "count_tokens"]


COUNT_TOKENS_PATH = "/v1/messages/count_tokens"

_ASKED = ("model", "messages", "tools", "chat_template_kwargs")
# What servers answer that have no such route, or one that takes something else.
_NO_ROUTE = frozenset({404, 405, 422, 501})


async def count_tokens(
    services: CallServices, request: ClientRequest, reply: Reply, conversation: str | None
) -> None:
    """Answer how many tokens a prompt has, as the attempt's next call would have it.

    Servers of Anthropic's format are asked as the client asked. Others are asked for
    `POST /tokenize` with messages, as vLLM and the embedded engine serve it; where that fails the
    client gets a 501.
    """
    try:
        body = read_body(request.body)
        route = services.models.find(str(body.get("model") or "") or None)
        if is_native(route):
            await pass_through(services, request, reply)
            return
        counted = await _count(route, body, request, conversation)
        await reply.json(200, {"input_tokens": counted})
    except (RequestError, UpstreamError) as error:
        await _fail(error, reply)


async def _count(
    route: ModelRoute, body: dict[str, Any], request: ClientRequest, conversation: str | None
) -> int:
    chat = to_chat_request(body, trained=route.trained)
    # The exchange knows what the gateway changes about requests to this model.
    asked: dict[str, Any] = parse_json(ChatExchange(chat, write_json(chat), route).upstream_body)
    question = {key: asked[key] for key in _ASKED if key in asked}
    response = await route.upstream.send(
        UpstreamRequest(
            method="POST",
            path="/tokenize",
            headers=forwarded_headers(request.headers),
            body=write_json({**question, "add_generation_prompt": True}),
            conversation=conversation,
        )
    )
    try:
        return _read_count(route, response.status, await response.read())
    finally:
        await response.aclose()


def _read_count(route: ModelRoute, status: int, body: bytes) -> int:
    if status >= HTTPStatus.BAD_REQUEST and status not in _NO_ROUTE:
        message, _, code = read_error(status, body)
        kind = type_of_status(status)
        raise RequestError(message, status=status, error_type=kind, error_code=code)
    try:
        answer: Any = parse_json(body)
    except ValueError:
        answer = None
    found = cast("dict[str, Any]", answer).get("count") if isinstance(answer, dict) else None
    if status >= HTTPStatus.BAD_REQUEST or not isinstance(found, int):
        raise RequestError(
            f"The model server {route.upstream.name} cannot count the tokens of messages.",
            status=501,
            error_type="api_error",
            error_code="not_implemented",
        )
    return found


async def _fail(error: GatewayError, reply: Reply) -> None:
    failure = CallFailure.from_error(error)
    told = error_body(failure.message, error_type=failure.error_type, code=failure.code)
    await reply.whole(failure.status, failure.headers, told)
