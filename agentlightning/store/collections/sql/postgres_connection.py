"""One transaction of one connection to PostgreSQL, as the synchronous code sees it.

It runs in a greenlet of SQLAlchemy's: what waits for the server here suspends the coroutine that
started the greenlet.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from asyncpg import PostgresError, UniqueViolationError
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.util import await_only

from agentlightning.errors import AgentLightningError
from agentlightning.store.collections.sql.statement import Parameters, Statement, render

DIALECT: Final[Dialect] = asyncpg.dialect()


async def _settled(work: Coroutine[Any, Any, Any]) -> Any:
    """Return what comes of some work, also when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()


class PostgresConnection:
    """An `Executor` on asyncpg.

    Each statement is a transaction of its own until `begin` is called.

    Args:
        driver: asyncpg's connection.
    """

    may_share_database = True
    duplicate_error: type[Exception] = UniqueViolationError
    dialect: Dialect = DIALECT

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.process: int = driver.get_server_pid()
        """The process of the server that serves this connection."""

    def fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """Run SQL text; return all rows."""
        return await_only(self._driver.fetch(sql, *parameters))

    def fetch_finally(self, sql: str, *parameters: Any) -> list[Any]:
        """Run SQL text, which commits unless a transaction is open; who is cancelled meanwhile
        learns what came of it.
        """
        fetched = self._driver.fetch(sql, *parameters)
        return await_only(fetched if self.in_transaction else _settled(fetched))

    def _execute(self, sql: str, *parameters: Any) -> str:
        return await_only(self._driver.execute(sql, *parameters))

    def rows(self, statement: Statement, parameters: Parameters = ()) -> list[Any]:
        """Run a statement; return all rows."""
        text, bind = statement.compiled(self.dialect)
        return self.fetch(text, *bind(parameters))

    def change(self, statement: Statement, parameters: Parameters = ()) -> int:
        """Run a statement that writes; return how many rows it touched."""
        text, bind = statement.compiled(self.dialect)
        status = self._execute(text, *bind(parameters))
        return int(status.rpartition(" ")[2])

    def change_many(self, statement: Statement, rows: Sequence[Parameters]) -> None:
        """Run a statement that writes once for each set of parameters."""
        text, bind = statement.compiled(self.dialect)
        if len(rows) == 1:
            self._execute(text, *bind(rows[0]))
        elif rows:
            await_only(self._driver.executemany(text, [bind(row) for row in rows]))

    def select(self, clause: ClauseElement) -> list[Any]:
        """Run a query that is not worth keeping; return all rows."""
        text, names, values = render(clause, self.dialect)
        return self.fetch(text, *(values[name] for name in names))

    def run(self, sql: str) -> None:
        """Run SQL text, such as a definition."""
        self._execute(sql)

    def tables(self) -> set[str]:
        """Return the names of all tables of the schema at hand."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        return {name for (name,) in self.fetch(query)}

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
        self.fetch(f"SELECT {kind}($1::BIGINT)", lock_key(name))

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, as the server said last."""
        return self._driver.is_in_transaction()

    def begin(self, *, snapshot: bool = False) -> None:
        """Begin a transaction, unless one is open; with a snapshot, all of it sees one moment."""
        if not self.in_transaction:
            self._execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if snapshot else "BEGIN")

    def commit(self) -> None:
        """Commit the transaction; who is cancelled meanwhile learns what came of it."""
        await_only(_settled(self._driver.execute("COMMIT")))

    def rollback(self) -> None:
        """Undo the transaction."""
        self._execute("ROLLBACK")


def lock_key(name: str) -> int:
    """Return the number under which a lock of this name is taken."""
    return zlib.crc32(f"agentlightning/{name}".encode())
