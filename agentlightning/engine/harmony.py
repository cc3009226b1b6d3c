"""Harmony, the format of gpt-oss: an answer is a row of messages, each on a channel.

`<|channel|>analysis<|message|>...<|end|>` is reasoning, `final` is content, as is `commentary`
that is addressed to nobody, and a message `to=functions.f` is a call. Pure functions of text. What
does not follow the format is content, markers and all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentlightning.engine.reasoning import Split
from agentlightning.engine.text import held_suffix
from agentlightning.engine.tool_formats.calls import ToolCall
from agentlightning.engine.tool_formats.json_calls import load_json

__all__ = ["HarmonyFilter", "harmony_matches", "harmony_opening"]

_START, _CHANNEL, _BODY = "<|start|>assistant", "<|channel|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_BEGINNINGS = (_START, _CHANNEL, " to=")
_HEAD_SIZE = 256
"""Most characters of a message's head; text without a head is no message."""
_HEAD = re.compile(
    r"(?:<\|start\|>assistant)?(?: to=(?P<before>[^\s<]+))?"
    r"<\|channel\|>(?P<channel>analysis|commentary|final)(?: to=(?P<behind>[^\s<]+))?"
    r"\s*(?:(?:<\|constrain\|>)?\w+)?\s*"
)


def harmony_matches(template: str) -> bool:
    """Tell whether a chat template teaches this format."""
    return _CHANNEL in template and _BODY in template


def harmony_opening(tool: str | None) -> str:
    """Return how an answer that calls a tool begins; None lets the model choose the tool."""
    call = f"{_CHANNEL}commentary to=functions."
    return call if tool is None else f"{call}{tool} <|constrain|>json{_BODY}"


@dataclass(slots=True)
class _Message:
    head: str
    is_thought: bool
    recipient: str | None
    body: str = ""
    """Of a call only, as it is held until its end."""


class HarmonyFilter:
    """Takes a growing text apart; its pieces, joined, are the same however the text was cut."""

    def __init__(self, *, calls: bool, separate: bool) -> None:
        """Start an empty answer, behind a prompt that ends with `<|start|>assistant`.

        Args:
            calls: Whether calls are looked for; if not, they are content as written.
            separate: Whether reasoning is told apart; if not, it is content as written.
        """
        self._looks_for_calls = calls
        self._separate = separate
        self._held = ""
        self._message: _Message | None = None
        """None between messages."""
        self._is_raw = False
        """Something other than a message came; all the rest is content."""
        self.calls: list[ToolCall] = []
        """Calls that have come to their end."""

    def push(self, text: str) -> Split:
        """Add text and return what is certain now."""
        self._held += text
        said: list[Split] = []
        while (piece := self._next()) is not None:
            said.append(piece)
        return Split.join(said)

    def end(self) -> Split:
        """Return what was held back, with the call that the text ended in."""
        held, self._held = self._held, ""
        if self._message is None:
            return Split(content=held)
        message, self._message = self._message, None
        said = self._say(message, held)
        return Split.join([said, self._close(message, "")])

    def _next(self) -> Split | None:
        """Take the next piece from what is held; None where more must come first."""
        if self._is_raw:
            held, self._held = self._held, ""
            return Split(content=held) if held else None
        return self._begin() if self._message is None else self._go_on(self._message)

    def _begin(self) -> Split | None:
        """Read the head of a message."""
        at = self._held.find(_BODY)
        if 0 <= at <= _HEAD_SIZE:
            begun = self._held.startswith(_BEGINNINGS)
            head = _HEAD.fullmatch(self._held, 0, at) if begun else None
            if head is not None:
                return self._open(head)
        elif self._may_be_head():
            return None
        self._is_raw = True
        return Split()

    def _may_be_head(self) -> bool:
        held = self._held
        begun = any(held.startswith(it) or it.startswith(held) for it in _BEGINNINGS)
        return begun and len(held) < _HEAD_SIZE + len(_BODY)

    def _open(self, head: re.Match[str]) -> Split:
        text = head[0] + _BODY
        self._held = self._held.removeprefix(text)
        recipient = head["before"] or head["behind"]
        message = _Message(text, head["channel"] == "analysis", recipient)
        self._message = message
        if self._is_call(message):
            return Split()
        if message.is_thought:
            return Split("") if self._separate else Split(content=text)
        return Split(content=text if recipient else "")

    def _go_on(self, message: _Message) -> Split | None:
        """Read the body of a message, up to its end."""
        ends = [(at, end) for end in _ENDS if (at := self._held.find(end)) >= 0]
        if ends:
            at, end = min(ends)
            body, self._held = self._held[:at], self._held[at + len(end) :]
            said = self._say(message, body)
            self._message = None
            return Split.join([said, self._close(message, end)])
        size = len(self._held) - max(held_suffix(self._held, end) for end in _ENDS)
        body, self._held = self._held[:size], self._held[size:]
        return self._say(message, body) if body else None

    def _say(self, message: _Message, body: str) -> Split:
        if self._is_call(message):
            message.body += body
            return Split()
        if message.is_thought and self._separate:
            return Split(body)
        return Split(content=body)

    def _close(self, message: _Message, end: str) -> Split:
        """Return what the end of a message makes certain."""
        if self._is_call(message):
            assert message.recipient is not None
            if isinstance(load_json(message.body), dict):
                name = message.recipient.removeprefix("functions.")
                self.calls.append(ToolCall(name, message.body.strip()))
                return Split()
            return Split(content=message.head + message.body + end)
        is_written = bool(message.recipient) or (message.is_thought and not self._separate)
        return Split(content=end if is_written else "")

    def _is_call(self, message: _Message) -> bool:
        return self._looks_for_calls and message.recipient is not None
