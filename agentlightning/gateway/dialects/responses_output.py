"""The output of a response as it builds up, and the events that say so.

Every event goes through one function, so that a whole answer is what a stream adds up to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentlightning.gateway.dialects.request_check import Members
from agentlightning.gateway.dialects.responses_items import seal_thought
from agentlightning.gateway.jsontext import write_json

__all__ = ["OutputWriter"]

Emit = Callable[..., None]
"""Takes the kind of an event and its members."""


@dataclass(slots=True)
class _Open:
    """An item that is not ended."""

    at: int
    """Its place in the output."""
    item: Members
    texts: list[str] = field(default_factory=list[str])
    """Pieces of its last part, or of its arguments."""
    part: Members | None = None
    """Its last part, if that is not ended."""

    @property
    def place(self) -> Members:
        return {"item_id": self.item["id"], "output_index": self.at}

    @property
    def part_place(self) -> Members:
        return {**self.place, "content_index": len(self.item["content"])}


class OutputWriter:
    """Puts output items together from pieces; serves one response.

    A piece of another kind ends thoughts and texts. Calls stay open to the end, since servers may
    go back and forth between them, and so does a text whose log-probabilities were asked for:
    tokens that come later are told with it.

    Args:
        response_id: The ids of the items are made from it.
        emit: Is told every event.
        in_summary: Thoughts are told as a summary of thoughts.
        sealed: Thoughts are given in `encrypted_content` as well.
        logprobs: Texts have log-probabilities.
    """

    def __init__(
        self, response_id: str, emit: Emit, *, in_summary: bool, sealed: bool, logprobs: bool
    ) -> None:
        self.items: list[Members] = []
        """All items, as they are so far."""
        self._stem = response_id.removeprefix("resp_")
        self._emit = emit
        self._in_summary = in_summary
        self._sealed = sealed
        self._logprobs = logprobs
        self._thought: _Open | None = None
        self._message: _Open | None = None
        self._calls: dict[Any, _Open] = {}
        self._untold: list[Members] = []
        """Log-probabilities that came since the last piece of text."""

    def take_logprobs(self, entries: list[Members]) -> None:
        """Add entries of chat completions' log-probabilities."""
        if self._logprobs:
            self._untold += [_entry(entry) for entry in entries]

    def think(self, text: str) -> None:
        """Add to the thoughts."""
        thought = self._thought
        if thought is None:
            if not self._logprobs:
                self._end_message("completed")
            thought = self._thought = self._begin("reasoning", "rs", summary=[])
            if self._in_summary:
                part = thought.part = {"type": "summary_text", "text": ""}
                place = {**thought.place, "summary_index": 0}
                self._emit("response.reasoning_summary_part.added", **place, part=part)
            else:
                thought.item["content"] = []
                self._begin_part(thought, {"type": "reasoning_text", "text": ""})
        thought.texts.append(text)
        if self._in_summary:
            place = {**thought.place, "summary_index": 0}
            self._emit("response.reasoning_summary_text.delta", **place, delta=text)
        else:
            self._emit("response.reasoning_text.delta", **thought.part_place, delta=text)

    def say(self, text: str) -> None:
        """Add to the text."""
        message = self._begin_message("output_text")
        message.texts.append(text)
        logprobs, self._untold = self._untold, []
        assert message.part is not None
        message.part["logprobs"] += logprobs
        told = {"delta": text, "logprobs": logprobs}
        self._emit("response.output_text.delta", **message.part_place, **told)

    def refuse(self, text: str) -> None:
        """Add to what the model says in place of an answer."""
        message = self._begin_message("refusal")
        message.texts.append(text)
        self._emit("response.refusal.delta", **message.part_place, delta=text)

    def call(self, key: Any, call: Members) -> None:
        """Add to a tool call.

        Args:
            key: Tells the calls apart.
            call: What is new of it, in the shape of chat completions.
        """
        function: Members = call.get("function") or {}
        opened = self._calls.get(key)
        if opened is None:
            self._end_thought("completed")
            if not self._logprobs:
                self._end_message("completed")
            said = {
                "call_id": call.get("id") or f"call_{len(self._calls)}",
                "name": function.get("name") or "",
                "arguments": "",
            }
            opened = self._calls[key] = self._begin("function_call", "fc", **said)
        given = function.get("arguments") or ""
        text = given if isinstance(given, str) else write_json(given).decode()
        if text:
            opened.texts.append(text)
            self._emit("response.function_call_arguments.delta", **opened.place, delta=text)

    def end(self, *, cut_off: bool) -> None:
        """End all items; an answer without any has an empty text.

        Args:
            cut_off: The model was stopped before its end, in the last item.
        """
        if not self._calls and not self._has_message():
            self._begin_message("output_text")
        last = len(self.items) - 1

        def status(opened: _Open | None) -> str:
            return "incomplete" if cut_off and opened and opened.at == last else "completed"

        self._end_thought(status(self._thought))
        self._end_message(status(self._message))
        for opened in self._calls.values():
            arguments = opened.item["arguments"] = "".join(opened.texts)
            named = {"name": opened.item["name"], "arguments": arguments}
            self._emit("response.function_call_arguments.done", **opened.place, **named)
            self._end(opened, status(opened))

    def _has_message(self) -> bool:
        return any(item["type"] == "message" for item in self.items)

    def _begin(self, kind: str, prefix: str, **members: Any) -> _Open:
        at = len(self.items)
        item = {"id": f"{prefix}_{self._stem}{at:02d}", "type": kind, "status": "in_progress"}
        opened = _Open(at, {**item, **members})
        self.items.append(opened.item)
        self._emit("response.output_item.added", output_index=at, item=opened.item)
        return opened

    def _begin_part(self, opened: _Open, part: Members) -> None:
        opened.part, opened.texts = part, []
        self._emit("response.content_part.added", **opened.part_place, part=part)

    def _begin_message(self, kind: str) -> _Open:
        """Return the message, its last part being of the kind and open."""
        self._end_thought("completed")
        message = self._message
        if message is None:
            message = self._message = self._begin("message", "msg", role="assistant", content=[])
        if message.part is None or message.part["type"] != kind:
            self._end_part(message)
            text: Members = {"type": kind, "text": "", "annotations": [], "logprobs": []}
            part = text if kind == "output_text" else {"type": kind, "refusal": ""}
            self._begin_part(message, part)
        return message

    def _end_part(self, opened: _Open) -> None:
        part, place, text = opened.part, opened.part_place, "".join(opened.texts)
        if part is None:
            return
        if part["type"] == "refusal":
            part["refusal"] = text
            self._emit("response.refusal.done", **place, refusal=text)
        else:
            part["text"] = text
            told: Members = {"text": text}
            if part["type"] == "output_text":
                untold, self._untold = self._untold, []
                part["logprobs"] += untold
                told["logprobs"] = part["logprobs"]
            self._emit(f"response.{part['type']}.done", **place, **told)
        self._emit("response.content_part.done", **place, part=part)
        opened.item["content"].append(part)
        opened.part = None

    def _end_thought(self, status: str) -> None:
        thought, self._thought = self._thought, None
        if thought is None:
            return
        text = "".join(thought.texts)
        if self._in_summary:
            place = {**thought.place, "summary_index": 0}
            part = {"type": "summary_text", "text": text}
            self._emit("response.reasoning_summary_text.done", **place, text=text)
            self._emit("response.reasoning_summary_part.done", **place, part=part)
            thought.item["summary"] = [part]
        else:
            self._end_part(thought)
        if self._sealed:
            thought.item["encrypted_content"] = seal_thought(text)
        self._end(thought, status)

    def _end_message(self, status: str) -> None:
        message, self._message = self._message, None
        if message is not None:
            self._end_part(message)
            self._end(message, status)

    def _end(self, opened: _Open, status: str) -> None:
        opened.item["status"] = status
        self._emit("response.output_item.done", output_index=opened.at, item=opened.item)


def _entry(entry: Members) -> Members:
    """Return an entry of log-probabilities with the bytes that clients rely on."""
    likeliest: list[Members] = entry.get("top_logprobs") or []
    return {**_token(entry), "top_logprobs": [_token(other) for other in likeliest]}


def _token(entry: Members) -> Members:
    token = entry.get("token") or ""
    given = entry.get("bytes")
    data = list(token.encode()) if given is None else given
    return {"token": token, "bytes": data, "logprob": entry.get("logprob")}
