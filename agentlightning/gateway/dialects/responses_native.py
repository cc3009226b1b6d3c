"""Responses from a server that speaks them: bytes pass as they are, and are captured."""

from __future__ import annotations

from typing import Any, cast

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.chat_parts import read_answer
from agentlightning.gateway.dialects.native import NativeExchange
from agentlightning.gateway.dialects.request_check import Members, refuse
from agentlightning.gateway.dialects.responses_items import answer_message, read_items
from agentlightning.gateway.dialects.responses_object import chat_usage
from agentlightning.gateway.dialects.responses_request import to_chat_request
from agentlightning.gateway.models import ModelRoute
from agentlightning.types.call import CallChoice

__all__ = ["NativeResponseExchange"]

_ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
_FINISH_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_JOINED = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
}
"""Kinds of delta whose texts add up: the list that has the part, its number, its text."""


class NativeResponseExchange(NativeExchange):
    """One call that the upstream answers in the client's own format."""

    path = "/v1/responses"

    def __init__(self, request: Members, body: bytes, route: ModelRoute) -> None:
        super().__init__(request, body, route, lambda: _chat_request(request, route))
        self._response: Members = {}
        self._items: dict[int, Members] = {}

    def take_whole(self, body: bytes) -> bytes:
        response = read_answer(body)
        if not isinstance(response.get("output"), list):
            raise UpstreamError("The model server's answer is not a response.")
        self._take_response(response)
        return body

    @property
    def is_complete(self) -> bool:
        return self._response.get("status") in _ENDED or self.failure is not None

    @property
    def is_over(self) -> bool:
        return self.is_complete

    def answer(self) -> CapturedAnswer:
        response = self._response
        if not response:
            return CapturedAnswer()
        message = answer_message([self._items[at] for at in sorted(self._items)])
        choice = CallChoice(message=message, finish_reason=self._finish_reason(message))
        name = response.get("id")
        usage = chat_usage(response["usage"]) if response.get("usage") else {}
        return CapturedAnswer(str(name) if name else None, choices=[choice], usage=usage)

    def _finish_reason(self, message: Members) -> str | None:
        status = self._response.get("status")
        if status == "incomplete":
            reason = (self._response.get("incomplete_details") or {}).get("reason")
            return _FINISH_REASONS.get(str(reason), reason)
        if status != "completed":
            return None
        return "tool_calls" if message.get("tool_calls") else "stop"

    def _take_response(self, response: Members) -> None:
        self._response = response
        output = cast("list[Members]", response.get("output") or [])
        if output or response.get("status") in _ENDED:
            self._items = dict(enumerate(output)) or self._items
        if response.get("status") == "failed":
            self._fail(response.get("error"))

    def _fail(self, error: Any) -> None:
        message = cast("Members", error).get("message") if isinstance(error, dict) else error
        self.failure = str(message or "The model server reported an error.")

    def _take(self, event: Members) -> None:
        kind = str(event.get("type"))
        at = event.get("output_index") or 0
        if isinstance(event.get("response"), dict):
            self._take_response(event["response"])
        elif kind == "error":
            self._fail(event.get("error") or event.get("message"))
        elif kind in {"response.output_item.added", "response.output_item.done"}:
            self._items[at] = dict(event.get("item") or {})
        elif kind == "response.function_call_arguments.delta":
            item = self._items.setdefault(at, {"type": "function_call"})
            item["arguments"] = (item.get("arguments") or "") + (event.get("delta") or "")
        elif kind in _JOINED:
            _join(self._items.setdefault(at, {}), event, *_JOINED[kind])


def _join(item: Members, event: Members, key: str, number: str, text: str) -> None:
    """Add a delta to the part of an item that it belongs to, in place."""
    parts = cast("list[Members]", list(item.get(key) or []))
    item[key] = parts
    at = event.get(number) or 0
    while len(parts) <= at:
        parts.append({})
    part = parts[at] = dict(parts[at])
    part[text] = (part.get(text) or "") + (event.get("delta") or "")


def _chat_request(request: Members, route: ModelRoute) -> Members:
    if request.get("previous_response_id"):
        refuse("previous_response_id", "is known to the server only")
    items = read_items(request.get("input"), lambda _: None)
    return to_chat_request(request, items, trained=route.trained)
