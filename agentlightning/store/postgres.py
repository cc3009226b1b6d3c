"""The store in a PostgreSQL database: shared by any number of processes and machines.

A call that has returned is committed: it survives whatever the server's own settings let survive
(with `synchronous_commit = on`, the default, a crash and a power cut). A connection that is lost
before a commit makes the step run again; one that is lost during a commit is looked into, so that
nothing is done twice and nothing that was done is reported as failed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.clock import now
from agentlightning._internal.extra import require_extra
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based import CollectionBasedLightningStore

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["PostgresLightningStore"]

_DRIVER: Final = "postgresql+asyncpg"
_SCHEMES: Final = frozenset({"postgres", "postgresql", _DRIVER})
_OPTIONS: Final = ("schema", "pool_size")
_DEFAULT_POOL: Final = 8


def _parse(url: str) -> tuple[URL, dict[str, str]]:
    """Return a URL as SQLAlchemy reads it, and our own options that it names besides."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in _SCHEMES:
        raise ConfigurationError(
            f"{scheme!r} is no scheme of PostgreSQL; write postgresql://user:password@host/database."
        )
    try:
        parsed = make_url(f"{_DRIVER}://{rest}")
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError(
            "That is no PostgreSQL URL; write postgresql://user:password@host:5432/database."
        ) from error
    options = {name: str(parsed.query[name]) for name in _OPTIONS if name in parsed.query}
    return parsed.difference_update_query(_OPTIONS), options


def _checked_size(size: int | None, named: str | None) -> int:
    if size is None:
        size = _DEFAULT_POOL if named is None else int(named) if named.isdecimal() else 0
    if size < 1:
        raise ConfigurationError("pool_size must be a whole number of at least 1.")
    return size


def _checked_schema(schema: str | None) -> str | None:
    if schema is not None and not re.fullmatch("[a-z_][a-z0-9_]{0,45}", schema):
        raise ConfigurationError(
            f"{schema!r} cannot be a schema: use small letters, digits and _, at most 46."
        )
    return schema


class PostgresLightningStore(CollectionBasedLightningStore):
    """A store in a PostgreSQL (14 or newer) database.

    Any number of processes may open the same store: steps about one rollout come after one
    another, others run side by side, and each process learns at once of what the others do. The
    tables are created or migrated at the first call. When the server restarts, calls wait for it
    for up to `wait_seconds`, then raise `StoreUnavailableError`.

    Args:
        url: `postgresql://user:password@host:5432/database`; `postgres://` means the same.
            Further options are asyncpg's, such as `ssl=require`; `schema` and `pool_size` stand
            for the arguments.
        schema: The schema that holds the tables, made as needed: stores in different schemas
            share a database and nothing else. None takes the database's default.
        pool_size: Connections kept open, and so the steps that run at once; one more hears of
            what others do.
        max_overflow: Connections beyond that for peaks.
        wait_seconds: How long a call waits for a connection, or for a server that is away.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Raises:
        ConfigurationError: The URL cannot work. The first call raises it for a login that fails,
            a database that is missing, or tables of a newer layout.
        MissingExtraError: asyncpg is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        pool_size: int | None = None,
        max_overflow: int = 0,
        wait_seconds: float = 30.0,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        require_extra("postgres", "asyncpg", "greenlet")
        from agentlightning.store.collections.sql.postgres_database import PostgresCollections
        from agentlightning.store.collections.sql.postgres_pool import PoolOptions

        parsed, named = _parse(url)
        pool = PoolOptions(
            _checked_schema(schema or named.get("schema")),
            _checked_size(pool_size, named.get("pool_size")),
            max_overflow,
            wait_seconds,
        )
        super().__init__(
            PostgresCollections(parsed, pool),
            tracker=tracker,
            scan_debounce_seconds=scan_debounce_seconds,
        )
        if self._watchdog is not None:
            # Attempts may have run out while nobody had the store open.
            self._watchdog.expect(now())

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=False
        )
