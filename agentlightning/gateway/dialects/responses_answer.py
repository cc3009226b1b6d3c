"""A chat answer as a response: whole, or as the events of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentlightning._internal.clock import now
from agentlightning.gateway.dialects.chat_parts import first_choice, sse, text_of, thought_of
from agentlightning.gateway.dialects.openai_exchange import error_body
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses_object import new_response, response_usage
from agentlightning.gateway.dialects.responses_output import OutputWriter
from agentlightning.gateway.dialects.responses_request import (
    LOGPROBS,
    SEALED_THOUGHTS,
    includes,
)

__all__ = ["ResponseWriter", "error_event"]

_CUT_OFF = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not complete, by the reason why the model stopped."""


class _EventLog:
    """Events that are yet to be sent, numbered from the first."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self.number = 0

    def emit(self, kind: str, **members: Any) -> None:
        """Add an event."""
        self._events.append(sse({"type": kind, "sequence_number": self.number, **members}))
        self.number += 1

    def flush(self) -> bytes:
        """Return the events since the last time."""
        events, self._events = self._events, []
        return b"".join(events)


class ResponseWriter:
    """Implements `AnswerWriter` for responses; serves one call.

    Args:
        response_id: Of the response.
        request: What was asked.
        model: The name that the client called the model by.
        keep: Is given a response that came to its end.
    """

    def __init__(
        self, response_id: str, request: Members, model: str, keep: Callable[[Members], None]
    ) -> None:
        reasoning: Members = request.get("reasoning") or {}
        self._response = new_response(response_id, request, model)
        self._keep = keep
        # Perf: neither refers back to this writer, so that calls leave no work for the collector
        # of cycles, which takes five times as long as the translation.
        self._log = _EventLog()
        self._output = OutputWriter(
            response_id,
            self._log.emit,
            in_summary=bool(reasoning.get("summary") or reasoning.get("generate_summary")),
            sealed=includes(request, SEALED_THOUGHTS),
            logprobs=includes(request, LOGPROBS),
        )
        self._started = False
        self._finish: str | None = None
        self._usage: Members = {}

    def whole(self, answer: Members) -> Members:
        choice = first_choice(answer)
        message: Members = choice.get("message") or {}
        calls = [{**call, "index": at} for at, call in enumerate(message.get("tool_calls") or [])]
        self._take(answer, choice, {**message, "tool_calls": calls})
        self._end()
        return self._response

    def chunk(self, chunk: Members) -> bytes:
        self._start()
        choices: list[Members] = chunk.get("choices") or []
        for choice in choices or [{}]:
            self._take(chunk, choice, choice.get("delta") or {})
        return self._log.flush()

    def end(self) -> bytes:
        self._end()
        self._log.emit(f"response.{self._response['status']}", response=self._response)
        return self._log.flush()

    def error(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_body(message, error_type=error_type, code=code)

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        self._start()
        error = {"code": "server_error", "message": message}
        output = self._output.items
        self._response.update(status="failed", error=error, output=output)
        self._log.emit("response.failed", response=self._response)
        # Clients that only follow the deltas, as OpenAI's does, would not notice.
        number = self._log.number
        told = error_event(message, error_type=error_type, code=code, number=number)
        return self._log.flush() + told

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._log.emit("response.created", response=self._response)
            self._log.emit("response.in_progress", response=self._response)

    def _take(self, answer: Members, choice: Members, message: Members) -> None:
        """Take an answer, or a chunk of one."""
        output = self._output
        if isinstance(answer.get("usage"), dict):
            self._usage = answer["usage"]
        self._finish = choice.get("finish_reason") or self._finish
        output.take_logprobs((choice.get("logprobs") or {}).get("content") or [])
        for piece, take in (
            (thought_of(message), output.think),
            (text_of(message), output.say),
            (message.get("refusal"), output.refuse),
        ):
            if piece:
                take(piece)
        for call in message.get("tool_calls") or []:
            at = call.get("index")
            # A call without a number is whole.
            output.call(id(call) if at is None else at, call)

    def _end(self) -> None:
        reason = _CUT_OFF.get(self._finish or "")
        self._output.end(cut_off=reason is not None)
        self._response.update(
            status="incomplete" if reason else "completed",
            completed_at=None if reason else int(now()),
            incomplete_details={"reason": reason} if reason else None,
            output=self._output.items,
            usage=response_usage(self._usage),
        )
        self._keep(self._response)


def error_event(message: str, *, error_type: str, code: str, number: int = 0) -> bytes:
    """Return the event that ends a stream with an error.

    Args:
        message: What went wrong.
        error_type: OpenAI's type.
        code: OpenAI's code.
        number: Of the event in its stream.
    """
    told = {"code": code or None, "message": message, "param": None}
    # What its clients raise an error for, beside what its reference says.
    error = {"type": error_type, **told}
    return sse({"type": "error", "sequence_number": number, **told, "error": error})
