"""One transaction of one connection to PostgreSQL, as the synchronous code sees it.

It runs in a greenlet of SQLAlchemy's: what waits for the server here suspends the coroutine that
started the greenlet.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from operator import methodcaller
from typing import Any, Final

from asyncpg import InterfaceError, InternalClientError, PostgresError, UniqueViolationError
from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.exc import SQLAlchemyError

from agentlightning.errors import AgentLightningError
from agentlightning.store.collections.sql.statement import Parameters, Statement, render

DRIVER_ERRORS: Final = (
    PostgresError,
    InterfaceError,
    InternalClientError,
    SQLAlchemyError,
    OSError,
)
"""Everything that talking to a server may raise."""
_RETRIED: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialisation failure, deadlock, lock not available: nothing was done, and it may work now."""
_LOST: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""The server goes down, is not up yet, or takes no more connections."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was made of."""
    yield error
    for cause in (getattr(error, "orig", None), error.__cause__):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def sql_state(error: BaseException) -> str:
    """Return PostgreSQL's code for an error; empty when it is none of the server's."""
    states = (getattr(cause, "sqlstate", None) for cause in _causes(error))
    return next((state for state in states if isinstance(state, str)), "")


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction failed only because others run beside it."""
    return sql_state(error) in _RETRIED


def is_refusal(error: BaseException) -> bool:
    """Return whether a value cannot be stored."""
    return sql_state(error).startswith("22")


def is_loss(error: BaseException) -> bool:
    """Return whether the server could not be reached, or went away."""
    state = sql_state(error)
    if state:
        return state in _LOST or state.startswith("08")
    # The driver's own confusion is what a server's farewell to an idle connection leaves behind.
    lost = (OSError, InterfaceError, InternalClientError)
    return any(isinstance(cause, lost) for cause in _causes(error))


class PostgresConnection:
    """An `Executor` on asyncpg.

    Args:
        connection: Of SQLAlchemy's engine, within `run_sync`.
    """

    may_share_database = True
    duplicate_error: type[Exception] = UniqueViolationError

    def __init__(self, connection: Connection) -> None:
        self.dialect: Dialect = connection.dialect
        # Perf: SQLAlchemy's cursor takes three times as long as the driver itself.
        self._driver: Any = connection.connection.dbapi_connection

    def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return self._driver.run_async(methodcaller("fetch", sql, *parameters))

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> str:
        return self._driver.run_async(methodcaller("execute", sql, *parameters))

    def rows(self, statement: Statement, parameters: Parameters = ()) -> list[Any]:
        """Run a statement; return all rows."""
        text, bind = statement.compiled(self.dialect)
        return self._fetch(text, bind(parameters))

    def change(self, statement: Statement, parameters: Parameters = ()) -> int:
        """Run a statement that writes; return how many rows it touched."""
        text, bind = statement.compiled(self.dialect)
        status = self._execute(text, bind(parameters))
        return int(status.rpartition(" ")[2])

    def change_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run a statement that writes once for each set of parameters."""
        text, bind = statement.compiled(self.dialect)
        if len(rows) == 1:
            self._execute(text, bind(rows[0]))
        elif rows:
            bound = [bind(row) for row in rows]
            self._driver.run_async(methodcaller("executemany", text, bound))

    def select(self, clause: ClauseElement) -> list[Any]:
        """Run a query that is not worth keeping; return all rows."""
        text, names, values = render(clause, self.dialect)
        return self._fetch(text, [values[name] for name in names])

    def run(self, sql: str) -> None:
        """Run SQL text, such as a definition."""
        self._execute(sql)

    def tables(self) -> set[str]:
        """Return the names of all tables of the schema at hand."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return {name for (name,) in self._fetch(query, ())}

    def array(self, values: Sequence[Any]) -> list[Any]:
        """Return a list as the parameter of `in_list`."""
        return list(values)

    @contextmanager
    def savepoint(self) -> Generator[None]:
        """Undo the block's statements if it raises, and keep the transaction alive."""
        self.run("SAVEPOINT part")
        try:
            yield
        except (PostgresError, AgentLightningError):
            self.run("ROLLBACK TO SAVEPOINT part")
            raise
        self.run("RELEASE SAVEPOINT part")

    def lock(self, name: str, *, shared: bool = False) -> None:
        """Until the transaction ends, keep others from taking the same lock, or sharing it."""
        kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        key = zlib.crc32(f"agentlightning/{name}".encode())
        self._fetch(f"SELECT {kind}($1::BIGINT)", (key,))

    def begin(self, *, snapshot: bool = False) -> None:
        """Begin a transaction; with a snapshot, all of it sees one moment."""
        self._execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if snapshot else "BEGIN")

    def commit(self) -> None:
        """Commit the transaction."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction."""
        self._execute("ROLLBACK")
