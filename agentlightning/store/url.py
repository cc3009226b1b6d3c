"""A store by its URL, so that configuration can name one."""

from __future__ import annotations

import os
from typing import Any, Final

from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore

__all__ = ["open_store"]

_FORMS: Final = (
    "memory://, sqlite:///file.db, postgresql://user:password@host/database, "
    "redis://host:6379/0, mongodb://host/database or http://host:4747"
)


def open_store(
    url: str,
    *,
    tracker: Any = None,
    token: str | None = None,
    verify: bool | str | os.PathLike[str] = True,
) -> LightningStore:
    """Return the store that a URL names.

    Args:
        url: `memory://`, `sqlite:///relative/file.db`, `sqlite:////absolute/file.db`,
            `postgresql://user:password@host/database` (also `postgres`),
            `redis://host:6379/0` (also `rediss`, `valkey`, `unix:///socket`),
            `mongodb://host/database?partition=name` (also `mongodb+srv`), or the `http://` or
            `https://` address of a running store server.
        tracker: A metrics backend for a store that is opened here; a server has its own.
        token: What a store server asks for.
        verify: Whom an `https` server may be; see `LightningStoreClient`.

    Raises:
        ConfigurationError: The URL names no kind of store, or one that this version lacks.
    """
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark:
        raise ConfigurationError(f"{url!r} is no store URL; write {_FORMS}.")
    if scheme == "memory" and not rest.strip("/"):
        from agentlightning.store.memory import InMemoryLightningStore

        return InMemoryLightningStore(thread_safe=True, tracker=tracker)
    if scheme == "sqlite":
        from agentlightning.store.sqlite import SQLiteLightningStore

        return SQLiteLightningStore(url, tracker=tracker)
    if scheme.partition("+")[0] in {"redis", "rediss", "valkey", "valkeys", "unix"}:
        from agentlightning.store.redis import RedisLightningStore

        return RedisLightningStore(url, tracker=tracker)
    if scheme in {"postgres", "postgresql", "postgresql+asyncpg"}:
        from agentlightning.store.postgres import PostgresLightningStore

        return PostgresLightningStore(url, tracker=tracker)
    if scheme in {"mongodb", "mongodb+srv"}:
        from agentlightning.store.mongo import MongoLightningStore

        return MongoLightningStore.from_url(url, tracker=tracker)
    if scheme in {"http", "https"}:
        from agentlightning.store.client_server import LightningStoreClient

        return LightningStoreClient(url, token=token, verify=verify)
    raise ConfigurationError(f"{url!r} names no kind of store; use {_FORMS}.")
