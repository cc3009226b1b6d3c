"""Calls of other formats to servers that speak them: bytes pass as they are, and are captured."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.base import Exchange
from agentlightning.gateway.dialects.chat_parts import read_answer
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.jsontext import write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent

__all__ = ["NativeExchange"]


class NativeExchange(Exchange):
    """One call that the upstream answers in the client's own format.

    Args:
        request: The parsed body.
        body: The body as the client sent it.
        route: Where the call goes.
        to_chat: Returns the request as chat completions, for the record.
    """

    path: ClassVar[str]

    def __init__(
        self, request: Members, body: bytes, route: ModelRoute, to_chat: Callable[[], Members]
    ) -> None:
        self.upstream_path = self.path
        same = request.get("model") == route.model
        self.upstream_body = body if same else write_json({**request, "model": route.model})
        self.stream = bool(request.get("stream"))
        try:
            self.chat_request = to_chat()
        except RequestError:
            # The server may well know what chat completions cannot say.
            self.chat_request = None

    def take_event(self, event: ServerEvent) -> bytes:
        if event.data is not None and event.data.strip():
            self._take(read_answer(event.data))
        return event.raw

    @abstractmethod
    def _take(self, event: Members) -> None:
        """Capture one event of a stream."""
