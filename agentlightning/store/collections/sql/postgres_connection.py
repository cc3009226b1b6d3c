"""One transaction of one connection to PostgreSQL, as the synchronous code sees it.

It runs in a greenlet of SQLAlchemy's: what waits for the server here suspends the coroutine that
started the greenlet.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from sqlalchemy import ClauseElement, Connection, Dialect

from agentlightning.store.collections.sql.statement import Parameters, Statement, render

_RETRIED: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialisation failure, deadlock, lock not available: nothing was done, and it may work now."""
_REFUSED: Final = frozenset({"22021", "22P05", "22003", "22001"})
"""Values that PostgreSQL cannot hold."""
_LOST: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""The server goes down, is not up yet, or takes no more connections."""


def sql_state(error: BaseException) -> str:
    """Return PostgreSQL's code for an error; empty when it is none of the server's."""
    for place in (error, getattr(error, "orig", None), error.__cause__):
        state = getattr(place, "sqlstate", None)
        if isinstance(state, str):
            return state
    return ""


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction failed only because others run beside it."""
    return sql_state(error) in _RETRIED


def is_refusal(error: BaseException) -> bool:
    """Return whether the server refused a value."""
    return sql_state(error) in _REFUSED


def is_loss(error: BaseException, dbapi: Any) -> bool:
    """Return whether the server could not be reached, or went away."""
    state = sql_state(error)
    if state:
        return state in _LOST or state.startswith("08")
    # The driver's own confusion is what a server's farewell to an idle connection leaves behind.
    confused = getattr(dbapi, "InternalClientError", dbapi.InterfaceError)
    return isinstance(error, (OSError, dbapi.InterfaceError, dbapi.OperationalError, confused))


class PostgresConnection:
    """An `Executor` on asyncpg.

    Args:
        connection: Of SQLAlchemy's engine, within `run_sync`.
    """

    may_share_database = True

    def __init__(self, connection: Connection) -> None:
        self.dialect: Dialect = connection.dialect
        dbapi: Any = connection.dialect.loaded_dbapi
        self.duplicate_error: type[Exception] = dbapi.IntegrityError
        self._raw: Any = connection.connection

    def _execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        cursor = self._raw.cursor()
        cursor.execute(sql, parameters)
        return cursor

    def rows(self, statement: Statement, parameters: Parameters = ()) -> list[Any]:
        """Run a statement; return all rows."""
        text, bind = statement.compiled(self.dialect)
        return list(self._execute(text, bind(parameters)).fetchall())

    def change(self, statement: Statement, parameters: Parameters = ()) -> int:
        """Run a statement that writes; return how many rows it touched."""
        text, bind = statement.compiled(self.dialect)
        return self._execute(text, bind(parameters)).rowcount

    def change_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run a statement that writes once for each set of parameters."""
        text, bind = statement.compiled(self.dialect)
        if len(rows) == 1:
            self._execute(text, bind(rows[0]))
        elif rows:
            self._raw.cursor().executemany(text, [bind(row) for row in rows])

    def select(self, clause: ClauseElement) -> list[Any]:
        """Run a query that is not worth keeping; return all rows."""
        text, names, values = render(clause, self.dialect)
        return list(self._execute(text, [values[name] for name in names]).fetchall())

    def run(self, sql: str) -> None:
        """Run SQL text, such as a definition."""
        self._execute(sql, ())

    def tables(self) -> set[str]:
        """Return the names of all tables of the schema at hand."""
        cursor = self._execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()", ()
        )
        return {cast("str", name) for (name,) in cursor.fetchall()}

    def array(self, values: Sequence[Any]) -> list[Any]:
        """Return a list as the parameter of `in_list`."""
        return list(values)

    @contextmanager
    def savepoint(self) -> Generator[None]:
        """Undo the block's statements if it raises, and keep the transaction alive."""
        self.run("SAVEPOINT part")
        try:
            yield
        except Exception:
            self.run("ROLLBACK TO SAVEPOINT part")
            raise
        self.run("RELEASE SAVEPOINT part")

    def lock(self, name: str, *, shared: bool = False) -> None:
        """Until the transaction ends, keep others from taking the same lock, or sharing it."""
        kind = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        key = zlib.crc32(f"agentlightning/{name}".encode())
        self._execute(f"SELECT {kind}($1::BIGINT)", (key,))

    def commit(self) -> None:
        """Commit the transaction."""
        self._raw.commit()

    def rollback(self) -> None:
        """Undo the transaction."""
        self._raw.rollback()
