"""0.3.0's `message_inspection`: calls and answers in the log, for looking over a proxy's shoulder."""

from __future__ import annotations

import logging
from typing import Any

from agentlightning.gateway.reply import Message, Receive, Send

__all__ = ["MessageInspectionMiddleware"]

logger = logging.getLogger(__name__)


class MessageInspectionMiddleware:
    """Logs the body of each request and of each answer, at level INFO and as they pass.

    Args:
        app: The ASGI application inside.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        path = scope.get("path")

        async def inspect_request() -> Message:
            message = await receive()
            if message.get("body"):
                logger.info("request", extra={"path": path, "body": _text(message)})
            return message

        async def inspect_answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                logger.info("answer", extra={"path": path, "status": message["status"]})
            elif message.get("body"):
                logger.info("answer", extra={"path": path, "body": _text(message)})
            await send(message)

        await self._app(scope, inspect_request, inspect_answer)


def _text(message: Message) -> str:
    return bytes(message["body"]).decode("utf-8", "replace")
