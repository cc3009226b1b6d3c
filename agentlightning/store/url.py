"""A store by its URL, so that configuration can name one."""

from __future__ import annotations

from typing import Final

from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStore

__all__ = ["open_store"]

_PLANNED: Final = frozenset({"postgresql", "postgres", "mongodb", "mongodb+srv"})
_FORMS: Final = "memory://, sqlite:///file.db, redis://host:6379/0 or http://host:4747"


def open_store(url: str) -> LightningStore:
    """Return the store that a URL names.

    Args:
        url: `memory://`, `sqlite:///relative/file.db`, `sqlite:////absolute/file.db`,
            `redis://host:6379/0` (also `rediss`, `valkey`, `unix:///socket`), or the `http://` or
            `https://` address of a running store server.

    Raises:
        ConfigurationError: The URL names no kind of store, or one that this version lacks.
    """
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark:
        raise ConfigurationError(f"{url!r} is no store URL; write {_FORMS}.")
    if scheme == "memory" and not rest.strip("/"):
        from agentlightning.store.memory import InMemoryLightningStore

        return InMemoryLightningStore(thread_safe=True)
    if scheme == "sqlite":
        from agentlightning.store.sqlite import SQLiteLightningStore

        return SQLiteLightningStore(url)
    if scheme.partition("+")[0] in {"redis", "rediss", "valkey", "valkeys", "unix"}:
        from agentlightning.store.redis import RedisLightningStore

        return RedisLightningStore(url)
    if scheme in {"http", "https"}:
        from agentlightning.store.client_server import LightningStoreClient

        return LightningStoreClient(url)
    if scheme.partition("+")[0] in _PLANNED:
        raise ConfigurationError(
            f"{scheme} stores are not available in this version; use {_FORMS}."
        )
    raise ConfigurationError(f"{url!r} names no kind of store; use {_FORMS}.")
