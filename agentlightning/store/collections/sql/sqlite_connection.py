"""One connection to a SQLite file, used by one thread at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects import sqlite

from agentlightning.errors import InvalidRequestError, StoreUnavailableError
from agentlightning.store.collections.sql.statement import Parameters, Statement, render

Synchronous = Literal["normal", "full"]

_BUSY_MILLISECONDS: Final = 30_000
PAGE_BYTES: Final = 2048
"""Perf: every commit writes whole pages, mostly for a few bytes each."""
_STATEMENTS: Final = 512
_BRIEF_INSTRUCTIONS: Final = 100_000
"""Of SQLite's machine; reading a thousand rows takes as many."""
_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class TooLongError(Exception):
    """A statement took more than its caller wanted to wait for."""


class BusyError(Exception):
    """Another process holds the write lock."""


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether a statement failed only because somebody else holds a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED


class SqliteConnection:
    """An `Executor` on SQLite's own driver.

    Args:
        path: The file.
        synchronous: When the disk is waited for: `full` at every commit, `normal` only when the
            write-ahead log is written back.
        patient: Wait half a minute for a lock; otherwise fail at once.
    """

    dialect: Dialect = sqlite.dialect()
    duplicate_error: type[Exception] = sqlite3.IntegrityError
    may_share_database = False

    def __init__(
        self, path: Path, *, synchronous: Synchronous = "normal", patient: bool = True
    ) -> None:
        self._raw = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
            timeout=_BUSY_MILLISECONDS / 1000,
        )
        self._cursor = self._raw.cursor()
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            # Writing the log back waits for the disk, so it is somebody else's work.
            "wal_autocheckpoint=0",
            # Perf: some builds overwrite with zeros what is deleted.
            "secure_delete=OFF",
            # Perf: with 64 MiB nothing is faster on a file of 80 MB, and each of the store's four
            # connections would take as much in the course of a run; the system caches the file.
            "cache_size=-8192",
            "temp_store=MEMORY",
            f"busy_timeout={_BUSY_MILLISECONDS if patient else 0}",
        ):
            self._cursor.execute(f"PRAGMA {pragma}").fetchall()

    def rows(self, statement: Statement, parameters: Parameters = ()) -> list[Any]:
        """Run a statement; return all rows."""
        text, bind = statement.forms.get("sqlite") or statement.compiled(self.dialect)
        return self._cursor.execute(text, bind(parameters)).fetchall()

    def change(self, statement: Statement, parameters: Parameters = ()) -> int:
        """Run a statement that writes; return how many rows it touched."""
        text, bind = statement.forms.get("sqlite") or statement.compiled(self.dialect)
        return self._cursor.execute(text, bind(parameters)).rowcount

    def change_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run a statement that writes once for each set of parameters."""
        text, bind = statement.forms.get("sqlite") or statement.compiled(self.dialect)
        if len(rows) == 1:
            self._cursor.execute(text, bind(rows[0]))
        else:
            self._cursor.executemany(text, map(bind, rows))

    def select(self, clause: ClauseElement) -> list[Any]:
        """Run a query that is not worth keeping; return all rows."""
        text, names, values = render(clause, self.dialect)
        return self._raw.execute(text, [values[name] for name in names]).fetchall()

    def run(self, sql: str) -> list[Any]:
        """Run SQL text; return all rows."""
        return self._cursor.execute(sql).fetchall()

    def tables(self) -> set[str]:
        """Return the names of all tables."""
        names = self.run("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in names if not name.startswith("sqlite_")}

    def array(self, values: Sequence[Any]) -> str:
        """Return a list as the parameter of `in_list`."""
        return orjson.dumps(list(values)).decode()

    @contextmanager
    def savepoint(self) -> Generator[None]:
        """Undo the block's statements if it raises, and keep the transaction alive."""
        self._cursor.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._cursor.execute("ROLLBACK TO part")
            self._cursor.execute("RELEASE part")
            raise
        self._cursor.execute("RELEASE part")

    def lock(self, name: str, *, shared: bool = False) -> None:
        """Do nothing: a writing transaction is alone."""

    @contextmanager
    def briefly(self) -> Generator[None]:
        """Break off the block's statements when they take more than some milliseconds.

        Raises:
            TooLongError: They were broken off.
        """
        self._raw.set_progress_handler(lambda: 1, _BRIEF_INSTRUCTIONS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise TooLongError from error
            raise
        finally:
            self._raw.set_progress_handler(None, 0)

    # Transactions.

    def begin(self, *, write: bool) -> int:
        """Begin a transaction; return a number that changes when others have written.

        Raises:
            BusyError: The connection is not patient, and another process writes.
        """
        try:
            self._cursor.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            return self._cursor.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.OperationalError as error:
            self.rollback()
            if is_locked(error):
                raise BusyError from error
            raise

    def commit(self) -> None:
        """Commit the transaction."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self._raw.in_transaction:
            self._cursor.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._raw.close()


def translated(error: Exception) -> Exception:
    """Return the store's error for a driver's, or the error itself."""
    if isinstance(error, sqlite3.OperationalError | BusyError):
        return StoreUnavailableError(f"The database did not answer: {error or 'it is locked'}")
    if isinstance(error, UnicodeEncodeError | OverflowError):
        return InvalidRequestError(f"A value cannot be stored: {error}; use plain JSON values.")
    return error
