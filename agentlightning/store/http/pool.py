"""Sessions of the store's client: one for each event loop, safe across threads and forks."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from agentlightning.errors import ConfigurationError

__all__ = ["SessionPool", "SessionPools", "Verify", "tls_of"]

logger = logging.getLogger(__name__)

IDLE_SECONDS: Final = 25.0
"""How long an unused connection is kept; servers of ours keep it for 30 seconds."""

CLOSING_SECONDS: Final = 1.0
"""How long closing waits for connections that have data to send."""

_open: Final[set[SessionPool]] = set()
"""Why: sessions complain when they are collected open, also in one go with what closes them."""

_NOT_SENT: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


Verify = bool | str
"""Whom an `https` server may be: True for whoever the system trusts, False for anybody, or the path
of the certificates of the authorities to trust instead (a PEM file, or a folder of them)."""


def tls_of(verify: Verify) -> ssl.SSLContext | bool:
    """Return what aiohttp is told about certificates.

    Raises:
        ConfigurationError: The path holds no certificates.
    """
    if isinstance(verify, bool):
        return verify
    try:
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise ConfigurationError(
            f"No certificates can be read from {verify!r} ({error}): give a PEM file or a folder."
        ) from error


class _Connector(aiohttp.TCPConnector):
    """A connector that a forked child drops without a word.

    Why: parent and child share what the kernel knows of sockets, so a child that closed the
    connections it inherited would make its parent's loop deaf to them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pid = os.getpid()

    def __del__(self, _warnings: Any = warnings) -> None:
        if self._pid == os.getpid():
            super().__del__(_warnings)


class SessionPool:
    """The session of one event loop, with its connections to one server."""

    def __init__(
        self,
        headers: Mapping[str, str],
        connection_timeout: float,
        tls: ssl.SSLContext | bool = True,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.session = aiohttp.ClientSession(
            # Why: long polls hold a connection each, so their number has no limit.
            connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=tls),
            headers=headers,
            skip_auto_headers=_NOT_SENT,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=connection_timeout),
            auto_decompress=False,
        )
        self.was_answered = False
        """Whether an answer came since the last connection broke, so that idle ones may be kept."""
        self.recovery: asyncio.Task[None] | None = None
        """The one task that looks whether the server is back, while somebody waits for that."""
        _open.add(self)

    async def close(self) -> None:
        """Close every connection; requests that are under way fail."""
        if self.recovery is not None:
            self.recovery.cancel()
        _open.discard(self)
        connector = self.session.connector
        self.session.detach()
        if connector is not None:
            try:
                async with asyncio.timeout(CLOSING_SECONDS):
                    await connector.close(abort_ssl=True)
            except TimeoutError:
                logger.debug("connections did not close in time")
        # Why: transports end in the loop's next turn, which must still come.
        await asyncio.sleep(0)


class SessionPools:
    """The sessions of one client. A forked child has none of its parent's connections.

    Args:
        headers: Sent with every request.
        connection_timeout: Longest time to open a connection, in seconds.
        verify: Whom an `https` server may be.

    Raises:
        ConfigurationError: `verify` names no certificates.
    """

    def __init__(
        self, headers: Mapping[str, str], connection_timeout: float, verify: Verify = True
    ) -> None:
        self._headers = headers
        self._timeout = connection_timeout
        self._tls = tls_of(verify)
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[SessionPool, AsyncGenerator[None, None]]
        ] = weakref.WeakKeyDictionary()

    async def here(self) -> SessionPool:
        """Return the running loop's session."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # Two processes that write into one connection would get each other's answers.
            self._reset()
        entry = self._pools.get(loop)
        if entry is not None:
            return entry[0]
        pool = SessionPool(self._headers, self._timeout, self._tls)
        closer = _closing_with_loop(pool)
        with self._lock:
            for other in [other for other in self._pools if other.is_closed()]:
                del self._pools[other]
            self._pools[loop] = (pool, closer)
        await anext(closer)
        # Why: a session holds its loop, so those of ended loops never go by themselves.
        for ended in [other for other in _open.copy() if other.loop.is_closed()]:
            _open.discard(ended)
            await ended.session.close()
        return pool

    async def close(self) -> None:
        """Close the connections of every loop; later requests open new ones."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            entries = list(self._pools.items())
            self._pools.clear()
        here = asyncio.get_running_loop()
        for loop, (_, closer) in entries:
            if loop is here:
                await closer.aclose()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(_close(closer), loop)


def _leave_behind() -> None:
    """Let a forked child forget its parent's sessions without a word."""
    for pool in _open:
        pool.session.detach()
    _open.clear()


os.register_at_fork(after_in_child=_leave_behind)


async def _closing_with_loop(pool: SessionPool) -> AsyncGenerator[None, None]:
    """Close the session when this generator is closed, dropped, or its loop shuts down.

    Why: event loops close their asynchronous generators before they end, which is the one moment
    when connections of a client that nobody closed can still be closed cleanly.
    """
    try:
        yield
    finally:
        await pool.close()


async def _close(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()
