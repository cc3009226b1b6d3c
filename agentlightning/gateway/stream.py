"""Server-sent events: cutting a byte stream into events, and changing the data of one.

Events are kept as the bytes they came in; what a gateway does not change, it forwards as it was.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["EventSplitter", "ServerEvent"]

_event_end = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_line_end = re.compile(rb"\r\n|\n|\r")
_LONGEST_END = 4
_FRAME_LENGTH = len(b"data: \n\n")


class ServerEvent(NamedTuple):
    """One event with the blank line that ends it."""

    raw: bytes
    data: bytes | None
    """Joined `data` lines; None for comments, which keep a connection alive."""

    def with_data(self, data: bytes) -> bytes:
        """Return the event's bytes with other data, which must not hold a line break."""
        # Perf: nothing but the data is in an event of this length.
        if self.data is not None and len(self.raw) == len(self.data) + _FRAME_LENGTH:
            return b"data: " + data + b"\n\n"
        if self.data is not None and self.raw.count(self.data) == 1:
            return self.raw.replace(self.data, data)
        lines = [line for line in _line_end.split(self.raw) if line[:5] not in {b"data:", b"data"}]
        kept = [line for line in lines if line]
        return b"\n".join([*kept, b"data: " + data, b"", b""])


class EventSplitter:
    """Collects bytes as they arrive and gives out whole events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """Return the events that end within `piece`."""
        if b"\r" not in piece and b"\r" not in self._rest:
            # Perf: what servers write, and half the time that a regular expression takes for it.
            *ended, self._rest = (self._rest + piece).split(b"\n\n")
            return [
                ServerEvent(raw + b"\n\n", raw[6:])
                if raw.startswith(b"data: ") and b"\n" not in raw
                else _to_event(raw + b"\n\n")
                for raw in ended
            ]
        search_from = max(0, len(self._rest) - _LONGEST_END)
        pending = self._rest + piece
        events: list[ServerEvent] = []
        start = 0
        for end in _event_end.finditer(pending, search_from):
            events.append(_to_event(pending[start : end.end()]))
            start = end.end()
        self._rest = pending[start:]
        return events

    def finish(self) -> list[ServerEvent]:
        """Return what is left at the end of the stream, for servers that omit the last line."""
        rest, self._rest = self._rest, b""
        return [_to_event(rest)] if rest.strip() else []


def _to_event(raw: bytes) -> ServerEvent:
    values = [
        line[5:].removeprefix(b" ")
        for line in _line_end.split(raw.removeprefix(b"\xef\xbb\xbf"))
        if line.startswith(b"data:")
    ]
    return ServerEvent(raw, b"\n".join(values) if values else None)
