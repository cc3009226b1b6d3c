"""The HTTP server under a gateway: uvicorn, without what a gateway has no use for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any

import uvicorn

from agentlightning._internal.serving import abort_connections
from agentlightning._internal.serving_protocol import gathering_protocol

__all__ = ["GatewayServer"]

_CANCEL_SECONDS = 10.0
"""How long calls that are cut off may take to have that recorded."""
# Above what HTTP clients keep idle connections for, so that it is they who close them.
_KEEP_ALIVE_SECONDS = 120


class GatewayServer(uvicorn.Server):
    """Serves an ASGI application until `stopping` is set.

    Args:
        app: The application.
        ready: Fulfilled once it listens.
    """

    def __init__(self, app: Any, ready: Future[None]) -> None:
        config = uvicorn.Config(
            app,
            http=gathering_protocol(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        super().__init__(config)
        self.stopping = asyncio.Event()
        self._ready = ready

    async def run_until_stopped(self, listeners: list[socket.socket]) -> None:
        """Serve; then wait for what was cut off to be recorded, and close every connection."""
        await self.serve(sockets=listeners)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_CANCEL_SECONDS)
        await abort_connections(self)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell whoever waits for that."""
        await super().startup(sockets)
        self._ready.set_result(None)

    async def main_loop(self) -> None:
        """Wait for the end, instead of waking ten times a second to look for it."""
        await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the program."""
        yield
