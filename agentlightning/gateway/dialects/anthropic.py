"""Anthropic messages: translated to chat completions, or passed on where they are spoken."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.gateway.dialects.anthropic_answer import MessageWriter
from agentlightning.gateway.dialects.anthropic_error import (
    error_body,
    error_event,
    type_of_status,
)
from agentlightning.gateway.dialects.anthropic_native import NativeMessageExchange
from agentlightning.gateway.dialects.anthropic_request import to_chat_request
from agentlightning.gateway.dialects.base import Dialect, Exchange, ModelCall
from agentlightning.gateway.dialects.translated import TranslatedExchange, read_error
from agentlightning.gateway.models import ModelRoute

__all__ = ["AnthropicMessagesDialect"]


class AnthropicMessagesDialect(Dialect):
    """`POST /v1/messages`."""

    name = "anthropic.messages"
    paths = frozenset({"/v1/messages"})
    is_translated = True

    def begin(self, call: ModelCall) -> Exchange:
        if is_native(call.route):
            return NativeMessageExchange(call.request, call.body, call.route)
        return _TranslatedMessageExchange(call.request, call.route)

    def error_body(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_body(message, error_type=error_type, code=code)

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_event(message, error_type=error_type, code=code)


def is_native(route: ModelRoute) -> bool:
    """Return whether a route's model server is to answer Anthropic's clients itself.

    Trained models never do: only chat completions tell token ids.
    """
    return not route.trained and "anthropic.messages" in route.upstream.capabilities.dialects


class _TranslatedMessageExchange(TranslatedExchange):
    def __init__(self, request: dict[str, Any], route: ModelRoute) -> None:
        stops = request.get("stop_sequences")
        said = [str(stop) for stop in cast("list[Any]", stops)] if isinstance(stops, list) else []
        model = str(request.get("model") or route.model)
        writer = MessageWriter(model, said, self.answer)
        super().__init__(to_chat_request(request, trained=route.trained), route, writer)

    def take_error(self, status: int, body: bytes) -> bytes:
        # Model servers do not agree on types; clients rely on the status, which stays.
        message, _, code = read_error(status, body)
        return error_body(message, error_type=type_of_status(status), code=code)
