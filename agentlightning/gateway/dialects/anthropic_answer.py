"""A chat answer as an Anthropic message: whole, or as the events of a stream.

Both come from the same rules, so a stream's deltas add up to the whole message byte for byte; only
arguments that are no JSON object have to be told otherwise once a part of them is out.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from agentlightning.gateway.dialects.anthropic_blocks import INVALID_JSON
from agentlightning.gateway.dialects.anthropic_calls import Step, StreamedCalls
from agentlightning.gateway.dialects.anthropic_error import error_body, error_event
from agentlightning.gateway.dialects.base import CapturedAnswer
from agentlightning.gateway.dialects.chat_parts import (
    cached_tokens,
    calls_of,
    first_choice,
    sse,
    text_of,
    thought_of,
)
from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.jsontext import write_json

__all__ = ["MessageWriter"]

_SIGNATURE = "YWdlbnRsaWdodG5pbmc="
"""Clients drop thoughts that nobody signed; the same for all, since it is not checked here."""

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_DELTAS = {"text": "text_delta", "thinking": "thinking_delta"}


class MessageWriter:
    """Implements `AnswerWriter` for Anthropic's messages; serves one call.

    Arguments of tool calls that are no JSON object, at which the clients' libraries raise, become
    `{"INVALID_JSON": "…"}` with the model's text as the value, and come back from the client as
    that text. In a stream they are told piece by piece; where they turn out to be none, the members
    that are out become null, see `GrowingObject.end`.

    Args:
        model: The name that the client called the model by.
        stops: The client's stop sequences.
        captured: Returns what the exchange captured so far; tool calls that are told whole are
            taken from there, so that the client gets the ones that are recorded.
    """

    def __init__(
        self, model: str, stops: list[str], captured: Callable[[], CapturedAnswer]
    ) -> None:
        self._model = model
        self._captured = captured
        self._stops = stops
        self._started = False
        self._blocks = 0
        """Blocks begun so far."""
        self._open: str | None = None
        """Kind of the block that is not ended yet."""
        self._finish: Members = {}
        """The choice, or the chunk of it, that said why it ended."""
        self._refused = False
        self._usage: Members = {}
        self._streamed = StreamedCalls()
        self._late: list[tuple[str, str]] = []
        """What was said in the middle of a call: kind and text."""

    def whole(self, answer: Members) -> Members:
        choice = first_choice(answer)
        message: Members = choice.get("message") or {}
        self._finish = choice
        content: list[Members] = []
        thought, text = thought_of(message), text_of(message)
        if thought:
            content.append({"type": "thinking", "thinking": thought, "signature": _SIGNATURE})
        if message.get("refusal"):
            self._refused = True
            text += message["refusal"]
        if text:
            content.append({"type": "text", "text": text})
        for call in self._calls():
            given = orjson.Fragment(_arguments(call) or "{}")
            content.append({**_tool_use(call), "input": given})
        self._usage = answer.get("usage") or {}
        return {**self._head(answer), "content": content, **self._end(), "usage": self._counts()}

    def chunk(self, chunk: Members) -> bytes:
        events: list[bytes] = []
        if not self._started:
            self._started = True
            events += [self._start(chunk), _PING]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for choice in chunk.get("choices") or []:
            if choice.get("finish_reason") is not None:
                self._finish = choice
            delta: Members = choice.get("delta") or {}
            events.append(self._say("thinking", thought_of(delta)))
            events.append(self._say("text", text_of(delta)))
            if delta.get("refusal"):
                self._refused = True
                events.append(self._say("text", delta["refusal"]))
            if delta.get("tool_calls") and not choice.get("index"):
                events.append(self._call(delta["tool_calls"]))
        return b"".join(events)

    def end(self) -> bytes:
        events = [self._tell(self._streamed.end()), self._stop_block()]
        for call in self._calls()[self._streamed.begun :]:
            events.append(self._start_block({**_tool_use(call), "input": {}}))
            said = {"type": "input_json_delta", "partial_json": _arguments(call)}
            events += [self._delta(said), self._stop_block()]
        usage = self._counts()
        events.append(sse({"type": "message_delta", "delta": self._end(), "usage": usage}))
        events.append(sse({"type": "message_stop"}))
        return b"".join(events)

    def error(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_body(message, error_type=error_type, code=code)

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_event(message, error_type=error_type, code=code)

    def _start(self, chunk: Members) -> bytes:
        message = {**self._head(chunk), "content": [], "stop_reason": None, "stop_sequence": None}
        # The counts of the end replace these; some clients look at the first ones only.
        prompt = len(chunk.get("prompt_token_ids") or ())
        message["usage"] = {**self._counts(), "input_tokens": prompt}
        return sse({"type": "message_start", "message": message})

    def _say(self, kind: str, text: str) -> bytes:
        if not text:
            return b""
        begun = self._tell(self._streamed.end_whole())
        if self._streamed.is_open:
            self._late.append((kind, text))
            return b""
        if self._open != kind:
            opening = {"type": kind, kind: ""}
            if kind == "thinking":
                opening["signature"] = ""
            begun += self._stop_block() + self._start_block(opening)
            self._open = kind
        return begun + self._delta({"type": _DELTAS[kind], kind: text})

    def _call(self, pieces: list[Members]) -> bytes:
        told = b"".join(self._tell(self._streamed.take(piece)) for piece in pieces)
        # What has to wait may take a while, in which the client is to hear something.
        return told or _PING

    def _tell(self, steps: list[Step]) -> bytes:
        events: list[bytes] = []
        for step in steps:
            if step[0] == "begin":
                events.append(self._stop_block())
                events.append(self._start_block({"type": "tool_use", **step[1], "input": {}}))
                continue
            events.append(self._delta({"type": "input_json_delta", "partial_json": step[1]}))
            if step[0] == "end":
                events.append(self._stop_block())
                late, self._late = self._late, []
                events += [self._say(kind, text) for kind, text in late]
        return b"".join(events)

    def _start_block(self, block: Members) -> bytes:
        self._blocks += 1
        self._open = block["type"]
        at = self._blocks - 1
        return sse({"type": "content_block_start", "index": at, "content_block": block})

    def _delta(self, delta: Members) -> bytes:
        at = self._blocks - 1
        return sse({"type": "content_block_delta", "index": at, "delta": delta})

    def _stop_block(self) -> bytes:
        if self._open is None:
            return b""
        signed = b""
        if self._open == "thinking":
            signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE})
        self._open = None
        return signed + sse({"type": "content_block_stop", "index": self._blocks - 1})

    def _head(self, answer: Members) -> Members:
        name = str(answer.get("id") or "msg")
        return {"id": name, "type": "message", "role": "assistant", "model": self._model}

    def _calls(self) -> list[Members]:
        """Return the tool calls, each with an id."""
        return calls_of(self._captured())

    def _end(self) -> Members:
        """Return why the answer ended."""
        said = self._finish.get("finish_reason")
        # vLLM and the embedded engine name the string that matched, SGLang does under its name.
        matched = self._finish.get("stop_reason") or self._finish.get("matched_stop")
        reason = _STOP_REASONS.get(said or "", "end_turn")
        if reason == "end_turn" and self._calls():
            reason = "tool_use"
        elif reason == "end_turn" and self._refused:
            reason = "refusal"
        elif reason == "end_turn" and isinstance(matched, str) and matched in self._stops:
            return {"stop_reason": "stop_sequence", "stop_sequence": matched}
        return {"stop_reason": reason, "stop_sequence": None}

    def _counts(self) -> Members:
        """Return the usage; prompt tokens from a cache are counted apart, as Anthropic does."""
        cached = cached_tokens(self._usage)
        return {
            "input_tokens": (self._usage.get("prompt_tokens") or 0) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._usage.get("completion_tokens") or 0,
        }


def _tool_use(call: Members) -> Members:
    name = (call.get("function") or {}).get("name") or ""
    return {"type": "tool_use", "id": call["id"], "name": name}


def _arguments(call: Members) -> str:
    """Return a call's arguments as the JSON object that a client gets; empty for none."""
    text = (call.get("function") or {}).get("arguments") or ""
    if isinstance(text, dict):
        return write_json(text).decode()
    if not text:
        return ""
    try:
        is_object = isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        is_object = False
    return text if is_object else write_json({INVALID_JSON: text}).decode()
