"""A way to a server on a unix socket that can be cut: after a request, before its answer."""

import asyncio
import contextlib
from pathlib import Path


class CutOff:
    """Forwards connections, and loses one answer when it is told to.

    Args:
        target: The server's socket.
        path: Where to listen.
    """

    def __init__(self, target: str, path: str) -> None:
        self.path = path
        self.lost = 0
        self._target = target
        self._marker: bytes | None = None
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "CutOff":
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        Path(self.path).unlink()

    def lose_answer_to(self, marker: bytes) -> None:
        """Cut the connection over which a request with this text comes, once it is carried out."""
        self._marker = marker

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        back, forth = await asyncio.open_unix_connection(self._target)
        cut = asyncio.Event()
        try:
            pumps = [
                asyncio.create_task(self._forward(reader, forth, cut, request=True)),
                asyncio.create_task(self._forward(back, writer, cut, request=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._links.discard(task)
            for end in (writer, forth):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        cut: asyncio.Event,
        *,
        request: bool,
    ) -> None:
        while data := await source.read(65536):
            if request and self._marker is not None and self._marker in data:
                self._marker = None
                cut.set()
            if not request and cut.is_set():
                self.lost += 1
                return
            sink.write(data)
            await sink.drain()
