"""An HTTP/1.1 connection of the store's client: one request at a time, nothing else.

General HTTP clients take three times the processor time that the store itself takes for a call;
this one speaks just the part of the protocol that servers and reverse proxies use in answers.
Redirects, cookies, proxies and compression are not its business.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

__all__ = ["BrokenConnectionError", "HttpConnection", "Response", "connect"]

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest line of a stream."""

_CLOSED: Final = "the server closed the connection"


class BrokenConnectionError(ConnectionError):
    """The connection ended, or what came was no HTTP; the request may or may not have run."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; of a stream only its head."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name; of repeated ones the last."""
    body: bytes


class HttpConnection(asyncio.Protocol):
    """Sends requests and reads their answers; belongs to one event loop.

    After an error, a cancellation or a stream it is no longer `reusable` and must be closed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Response] | None = None
        self._status = 0
        self._headers: dict[str, str] | None = None
        self._body = bytearray()
        self._left: int | None = 0
        """Bytes of the body still to come; None until the connection ends."""
        self._chunks: _Chunks | None = None
        self._stream: asyncio.StreamReader | None = None
        self._keeps = False
        self._ended: BaseException | None = None
        self.used = False
        """Whether an answer has come over this connection before."""
        self.answering = False
        """Whether any byte of the answer at hand has come."""

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        at_rest = self._answer is None and self._stream is None
        return self._keeps and self._ended is None and at_rest

    async def request(self, data: bytes) -> Response:
        """Send a whole request and return its whole answer.

        Raises:
            BrokenConnectionError: The connection ended before the answer did.
        """
        return await self._send(data)

    async def stream(self, data: bytes) -> tuple[Response, asyncio.StreamReader]:
        """Send a whole request and return its answer's head, and its body as it comes."""
        self._stream = body = asyncio.StreamReader(MAX_LINE_BYTES)
        return await self._send(data), body

    def close(self) -> None:
        """Close the connection; whoever waits for an answer gets an error."""
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, data: bytes) -> Response:
        if self._ended is not None or self._transport is None:
            raise BrokenConnectionError(_CLOSED)
        self._keeps = self.answering = False
        self._answer = answer = self._loop.create_future()
        self._transport.write(data)
        try:
            return await answer
        except asyncio.CancelledError:
            self.close()
            raise

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.answering = True
        if self._answer is None and self._stream is None:
            # Nothing was asked: the peer is confused, or says why it closes.
            self.close()
            return
        self._buffer += data
        try:
            self._advance()
        except ValueError as error:
            self._fail(BrokenConnectionError(f"the answer is not HTTP ({error})"))
            self.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = exc or BrokenConnectionError(_CLOSED)
        if self._headers is not None and self._left is None and self._chunks is None:
            # Without a length, the end of the connection is the end of the body.
            self._finish()
        self._fail(BrokenConnectionError(str(exc) if exc and str(exc) else _CLOSED))

    # Reading an answer.

    def _advance(self) -> None:
        if self._headers is None and not self._read_head():
            return
        buffer = self._buffer
        if self._chunks is not None:
            self._body += self._chunks.take(buffer)
            done = self._chunks.done
        elif self._left is None:
            self._body += buffer
            buffer.clear()
            done = False
        else:
            part = buffer[: self._left]
            del buffer[: len(part)]
            self._left -= len(part)
            if self._body:
                self._body += part
            else:
                self._body = part
            done = self._left == 0
        if self._stream is not None and self._body:
            self._stream.feed_data(bytes(self._body))
            self._body = bytearray()
        if done:
            self._finish()

    def _read_head(self) -> bool:
        """Read status and headers if all of them are there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ValueError("its head never ends")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"it begins with {first[:40]!r}")
        status = int(rest[:3])
        if status < 200:
            return self._read_head()
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self._status, self._headers = status, headers
        connection = headers.get("connection", "").lower()
        self._keeps = "close" not in connection and version != "HTTP/1.0"
        self._expect_body(status, headers)
        if self._stream is not None:
            self._settle(Response(status, headers, b""))
        return True

    def _expect_body(self, status: int, headers: dict[str, str]) -> None:
        self._chunks = None
        length = headers.get("content-length")
        if status in (204, 304):
            self._left = 0
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks, self._left = _Chunks(), None
        else:
            self._left = None if length is None else int(length)

    def _finish(self) -> None:
        """End the answer at hand."""
        headers, body = self._headers or {}, bytes(self._body)
        self._headers, self._body = None, bytearray()
        self.used = True
        if self._stream is not None:
            self._stream.feed_eof()
            self._stream, self._keeps = None, False
        self._settle(Response(self._status, headers, body))

    def _settle(self, response: Response) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(response)

    def _fail(self, error: BrokenConnectionError) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.set_exception(error)


class _Chunks:
    """Takes chunked transfer coding apart (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0
        self._in_trailer = False

    def take(self, buffer: bytearray) -> bytearray:
        """Remove what is complete from `buffer` and return the data in it."""
        data = bytearray()
        while buffer and not self.done:
            if self._left > 2:
                part = buffer[: self._left - 2]
                data += part
                del buffer[: len(part)]
                self._left -= len(part)
            elif self._left:
                # The line end behind a chunk.
                dropped = min(self._left, len(buffer))
                del buffer[:dropped]
                self._left -= dropped
            elif not self._next_line(buffer):
                break
        return data

    def _next_line(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise ValueError("a chunk's head never ends")
            return False
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        if self._in_trailer:
            self.done = not line
            return True
        size = int(line.partition(b";")[0], 16)
        self._in_trailer = size == 0
        self._left = size + 2 if size else 0
        return True


async def connect(address: str, seconds: float) -> HttpConnection:
    """Open a connection to the host of a URL.

    Raises:
        OSError: It cannot be reached, or not within `seconds`.
    """
    parts = urlsplit(address)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    async with asyncio.timeout(seconds):
        _, connection = await asyncio.get_running_loop().create_connection(
            HttpConnection, parts.hostname or "", port, ssl=secure
        )
    return connection
