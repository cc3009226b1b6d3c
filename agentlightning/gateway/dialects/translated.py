"""Serving clients of another format from an upstream that speaks chat completions.

Model servers tell token ids on chat completions only, so this is how such a client's calls can be
learnt from. The chat exchange captures; a writer says the same in the client's format.
"""

from __future__ import annotations

from typing import Any, Protocol

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer, Exchange
from agentlightning.gateway.dialects.openai_chat import ChatExchange
from agentlightning.gateway.jsontext import parse_json, write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent

__all__ = ["AnswerWriter", "TranslatedExchange", "read_error"]


class AnswerWriter(Protocol):
    """Says a chat answer in the client's format; serves one call."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the client's answer for a complete chat answer."""
        ...

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the client's events for one chunk of a chat stream; perhaps none yet."""
        ...

    def end(self) -> bytes:
        """Return the events that end the client's stream; called once."""
        ...

    def error(self, message: str, *, error_type: str, code: str) -> bytes:
        """Return the body of an error."""
        ...

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        """Return the event of an error within a stream."""
        ...


class TranslatedExchange(Exchange):
    """One call that goes to the upstream as chat completions.

    Args:
        chat_request: The client's request as chat completions.
        route: Where the call goes.
        writer: Says the answer in the client's format.
    """

    def __init__(
        self, chat_request: dict[str, Any], route: ModelRoute, writer: AnswerWriter
    ) -> None:
        self.chat_request = chat_request
        self._chat = ChatExchange(chat_request, write_json(chat_request), route)
        self._writer = writer
        self._ended = False
        self.upstream_path = self._chat.upstream_path
        self.upstream_body = self._chat.upstream_body
        self.stream = self._chat.stream

    def take_whole(self, body: bytes) -> bytes:
        answer = self._chat.read_whole(body)
        self.failure = self._chat.failure
        if self.failure is not None:
            # An error under a good status would be read as an answer; this one gets a bad status.
            raise UpstreamError(self.failure)
        return write_json(self._writer.whole(answer))

    def split_whole(self, body: bytes) -> list[ServerEvent] | None:
        return self._chat.split_whole(body)

    def take_event(self, event: ServerEvent) -> bytes:
        if event.data is None:
            return event.raw
        chunk = self._chat.read_event(event)
        if self._chat.failure is not None and self.failure is None:
            self.failure = self._chat.failure
            return self._writer.error_event(
                self.failure, error_type="server_error", code="upstream"
            )
        if chunk is not None:
            return self._writer.chunk(chunk)
        return self.finish() if self._chat.is_over else b""

    def take_error(self, status: int, body: bytes) -> bytes:
        message, error_type, code = read_error(status, body)
        return self._writer.error(message, error_type=error_type, code=code)

    def finish(self) -> bytes:
        if self._ended or self.failure is not None or not self._chat.is_complete:
            return b""
        self._ended = True
        return self._writer.end()

    def break_off(self, message: str, *, error_type: str, code: str) -> bytes | None:
        return self._writer.error_event(message, error_type=error_type, code=code)

    @property
    def is_complete(self) -> bool:
        return self._chat.is_complete

    @property
    def is_over(self) -> bool:
        return self._chat.is_over

    def answer(self) -> CapturedAnswer:
        return self._chat.answer()


def read_error(status: int, body: bytes) -> tuple[str, str, str]:
    """Return message, type and code of an upstream's error; of OpenAI's shape or any other."""
    text = body.decode("utf-8", "replace").strip()
    try:
        parsed: Any = parse_json(body)
    except ValueError:
        parsed = None
    error: Any = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    if isinstance(error, str) and error:
        return error, "", ""
    if not isinstance(error, dict):
        return text or f"The model server answered {status}.", "", ""
    message = error.get("message") or error.get("detail")
    return str(message or text), str(error.get("type") or ""), str(error.get("code") or "")
