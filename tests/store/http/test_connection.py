"""Tests of the client's own HTTP: answers in every shape that servers and proxies give."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.http.connection import (
    BrokenConnectionError,
    HttpConnection,
    connect,
)

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@asynccontextmanager
async def answering(*parts: bytes, close: bool = False) -> AsyncIterator[HttpConnection]:
    """Connect to a server that answers each request with these bytes, piece by piece."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                break
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = await connect(
        f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", seconds=5
    )
    try:
        yield connection
    finally:
        connection.close()
        listening.close()
        await asyncio.sleep(0.01)


def fed(data: bytes, sizes: list[int]) -> tuple[int, bytes, bool]:
    """Return the answer that a connection reads from these bytes, cut at these sizes."""

    async def run() -> tuple[int, bytes, bool]:
        connection = HttpConnection()
        waiting = connection._answer = asyncio.get_running_loop().create_future()
        left = data
        for size in [*sizes, len(data)]:
            if left:
                connection.data_received(left[:size])
                left = left[size:]
        answer = await waiting
        return answer.status, answer.body, connection.reusable

    return asyncio.run(run())


@given(
    st.binary(max_size=300),
    st.lists(st.integers(1, 40), max_size=30),
    st.lists(st.integers(1, 60), min_size=1, max_size=10),
)
def test_any_cut_gives_the_same_answer(body: bytes, cuts: list[int], chunks: list[int]):
    """However the bytes arrive, an answer is the same, with a length or in chunks."""
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: y\r\n\r\n%s" % (len(body), body)
    assert fed(plain, cuts) == (200, body, True)
    pieces, at = b"", 0
    for size in [*chunks, len(body)]:
        part = body[at : at + size]
        at += size
        if part:
            pieces += b"%x;ext=1\r\n%s\r\n" % (len(part), part)
    head = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert fed(head + pieces + b"0\r\nTrailer: t\r\n\r\n", cuts) == (201, body, True)


async def test_answers_without_a_length():
    """A body may end with the connection; what has none ends with its head."""
    async with answering(b"HTTP/1.0 200 OK\r\n\r\nall", b" of it", close=True) as connection:
        assert (await connection.request(REQUEST)).body == b"all of it"
        assert not connection.reusable
    async with answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 N\r\n\r\n") as connection:
        for _ in range(2):
            assert (await connection.request(REQUEST)).status == 204
            assert connection.reusable
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with answering(head) as connection:
        assert (await connection.request(REQUEST)).body == b""
        assert not connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"",
    ],
)
async def test_what_is_no_answer(answer: bytes):
    """Wrong or cut answers are errors of the connection, which is not used again."""
    async with answering(answer, close=True) as connection:
        with pytest.raises(BrokenConnectionError):
            async with asyncio.timeout(5):
                await connection.request(REQUEST)
        await asyncio.sleep(0.01)
        assert not connection.reusable
        with pytest.raises(BrokenConnectionError):
            await connection.request(REQUEST)


async def test_a_cancelled_request_closes_its_connection():
    """Nobody else gets the answer of a request that was given up."""
    async with answering(b"HTTP/1.1 200 OK\r\n") as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.request(REQUEST)
        await asyncio.sleep(0.01)
        assert not connection.reusable


async def test_streams_come_line_by_line():
    """A stream gives its head at once and its lines as they come."""
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n"
    async with answering(head, b"4\r\ntwo\n\r\n0\r\n\r\n") as connection:
        answer, body = await connection.stream(REQUEST)
        assert answer.status == 200
        assert [line async for line in body] == [b"one\n", b"two\n"]
        assert not connection.reusable
