"""Hearing of what others committed to a PostgreSQL database, at once: LISTEN and NOTIFY.

A trigger on the events' table tells on a channel who wrote, when the transaction commits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, select

from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreUnavailableError
from agentlightning.store.collections.sql.postgres_connection import PostgresConnection
from agentlightning.store.collections.sql.schema import events, totals
from agentlightning.store.collections.sql.statement import Executor, Statement, first
from agentlightning.store.collections.sql.totals import EVENTS
from agentlightning.types import StoreEvent

_AWAIT: Final = Statement(select(totals.c.value).where(totals.c.name == EVENTS).with_for_update())
_END: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = $1 AND application_name = $2 AND pid <> pg_backend_pid()
"""
_STORED: Final = Statement(select(events.c.seq).where(events.c.body == bindparam("body")), "body")

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION agentlightning_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('agentlightning_' || TG_TABLE_SCHEMA, current_setting('application_name'));
  RETURN NULL;
END $$
"""
_TRIGGER: Final = """
CREATE OR REPLACE TRIGGER agentlightning_tell AFTER INSERT ON events
FOR EACH STATEMENT EXECUTE FUNCTION agentlightning_tell()
"""


def tell_of_events(executor: Executor) -> None:
    """Make the database tell of new events."""
    executor.run(_FUNCTION)
    executor.run(_TRIGGER)


def number_events(events: Sequence[StoreEvent], last: int) -> None:
    """Give a step's events their numbers, of which the last one's is known."""
    for seq, event in enumerate(events, last - len(events) + 1):
        event.seq = seq


def end_process(executor: PostgresConnection, process: int, name: str, end: float) -> None:
    """End the server's process that serves a lost connection of this name, and wait for it.

    The process may not know of the loss: it goes on with a statement that waits for a lock, say,
    and commits what it wrote, or keeps a transaction open.

    Raises:
        StoreUnavailableError: It is still there at the monotonic time `end`.
    """
    while executor.fetch(_END, process, name):
        if monotonic() > end:
            raise StoreUnavailableError(
                f"Process {process} of the PostgreSQL server does not end, so that what it was "
                "asked for may or may not be done; look at the server, and then at the store."
            )
        executor.fetch("SELECT pg_sleep(0.01)")


def number_of(executor: Executor, body: str) -> int | None:
    """Return the number of the last event of a step whose events are stored as `body`.

    None when they are not stored; waits until nobody is about to store any. The times in them make
    a step's events differ from all others. Reads all events, some tenths of a second.
    """
    executor.run("BEGIN")
    executor.rows(_AWAIT)
    return first(executor, _STORED, (body,))


class _Setting:
    """Sets an event, whatever it is called with."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def __call__(self, *_: Any) -> None:
        self._event.set()


async def listen(
    connect: Callable[[], Any], name: str, schema: str, notify: Callable[[], None]
) -> None:
    """Call `notify` when another than `name` has committed events, until cancelled.

    Args:
        connect: Returns an awaitable asyncpg connection.
        name: The application name of one's own connections.
        schema: The schema of the tables.
        notify: Called from the event loop; also after a gap in which something may have been
            missed.
    """

    def hear(_: Any, __: int, ___: str, payload: str) -> None:
        if payload != name:
            notify()

    pause = _FIRST_PAUSE
    while True:
        connection: Any = None
        try:
            connection = await connect()
            lost = asyncio.Event()
            connection.add_termination_listener(_Setting(lost))
            await connection.add_listener(f"agentlightning_{schema}", hear)
            notify()
            pause = _FIRST_PAUSE
            await lost.wait()
        except Exception:
            logger.info("no connection to hear of changes, trying again", exc_info=True)
        finally:
            if connection is not None:
                connection.terminate()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
