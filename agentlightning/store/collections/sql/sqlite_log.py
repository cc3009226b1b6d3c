"""Writing SQLite's write-ahead log back into the file, which waits for the disk, in a thread.

The log is written back when it has grown or been written to for a while, while others go on
writing. Where they never pause, it cannot begin anew and goes on growing; at its bound writers
are held up until all of it is written back. It then begins anew in the room that it has.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from agentlightning.store.collections.sql.sqlite_connection import PAGE_BYTES, SqliteConnection

logger = logging.getLogger(__name__)

_WRITE_BACK: Final = 32 << 20
"""Bytes by which the log grows before it is written back."""
_COMMITS: Final = 4000
"""Commits after which it is written back, for a log that has begun anew does not grow."""
_MOST: Final = 64 << 20
"""Bytes beyond which writers are held up.

Perf: writing over the log's own pages takes half the time of making it longer.
"""
_LONG: Final = 4
"""So many times `_MOST` is not kept for the log once it is empty."""
_STOP_SECONDS: Final = 10.0


class LogKeeper:
    """The thread that writes the log back; it starts when there is something to do.

    Args:
        path: The database file.
        alone: Holds up this process's writers while it is entered.
    """

    def __init__(self, path: Path, alone: Callable[[], AbstractContextManager[object]]) -> None:
        self._path = path
        self._alone = alone
        self._guard = threading.Condition()
        self._size = 0
        self._seen = 0
        self._next = _WRITE_BACK
        self._next_commit = _COMMITS
        self._stopped = False
        self._thread: threading.Thread | None = None

    def grown(self, size: int, commits: int) -> None:
        """Note the log's size in bytes, and how many commits there have been in all."""
        if size < self._seen:
            self._next = _WRITE_BACK
        self._seen = size
        if size < self._next and commits < self._next_commit:
            return
        with self._guard:
            self._next = size + _WRITE_BACK
            self._next_commit = commits + _COMMITS
            self._size = size
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._work, name="agentlightning-log-keeper", daemon=True
                )
                self._thread.start()
            self._guard.notify()

    def close(self) -> None:
        """End the thread; idempotent."""
        with self._guard:
            self._stopped = True
            self._guard.notify()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _work(self) -> None:
        connection = SqliteConnection(self._path)
        try:
            while (size := self._wait()) is not None:
                try:
                    self._write_back(connection, size)
                except sqlite3.Error:
                    logger.warning("write-ahead log could not be written back", exc_info=True)
        finally:
            connection.close()

    def _write_back(self, connection: SqliteConnection, size: int) -> None:
        ((_, pages, _),) = connection.run("PRAGMA wal_checkpoint(PASSIVE)")
        if pages * PAGE_BYTES < _MOST:
            return
        with self._alone():
            mode = "TRUNCATE" if size >= _LONG * _MOST else "PASSIVE"
            connection.run(f"PRAGMA wal_checkpoint({mode})")

    def _wait(self) -> int | None:
        """Return the log's size when there is work, None when there will be none."""
        with self._guard:
            while not self._size and not self._stopped:
                self._guard.wait()
            size, self._size = self._size, 0
            return None if self._stopped else size
