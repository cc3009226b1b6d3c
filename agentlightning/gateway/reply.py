"""Answering a client: the sending half of one ASGI request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from agentlightning.errors import RequestError
from agentlightning.gateway.jsontext import write_json

__all__ = ["Message", "Receive", "Reply", "Send"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Reply:
    """One answer, whole or in pieces."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.has_ended = False
        self.is_unwanted = False
        """The client hung up before the end."""

    async def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send an answer in one piece."""
        await self.start(status, {**headers, "content-length": str(len(body))})
        await self.end(body)

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON value."""
        content = {"content-type": "application/json", **(headers or {})}
        await self.whole(status, content, write_json(value))

    async def refuse(self, error: RequestError) -> None:
        """Send what a client did wrong, in the shape that OpenAI clients read."""
        await self.json(error.status, error.to_body())

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        self.has_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def piece(self, data: bytes) -> None:
        """Send the next part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body."""
        # Set first: once these bytes are out, the client may hang up without having left early.
        self.has_ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
