"""The store in a Redis or Valkey server: shared by any number of processes and machines.

A call that has returned is in the server's memory. Whether it is on disk is for the server to
say: `appendonly yes` with `appendfsync always` keeps everything that was acknowledged, whatever
is killed or loses power; `appendfsync everysec` may lose the last second when the server dies,
snapshots alone all since the last one. A fail-over to a replica may lose what had not arrived
there. A log warning says at the first call when the server keeps nothing on disk, or may evict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from agentlightning._internal.clock import now
from agentlightning._internal.extra import require_extra
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.collection_based import CollectionBasedLightningStore

if TYPE_CHECKING:
    from agentlightning.store.collections.redis import RedisLightningCollections

__all__ = ["RedisLightningCollections", "RedisLightningStore"]

_SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+unix": "unix",
    "valkey+unix": "unix",
}
_DEFAULT_PREFIX: Final = "agentlightning"


def _split(url: str) -> tuple[str, str | None]:
    """Return a URL as redis-py reads it, and the prefix that it names besides."""
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise ConfigurationError(
            f"{parts.scheme or 'no scheme'!r} is no scheme of Redis; write "
            "redis://host:6379/0, rediss://… for TLS, or unix:///path/to/socket."
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = options.pop("prefix", None)
    # A URL without a host would lose its slashes.
    rest = urlunsplit(("", parts.netloc, parts.path, urlencode(options), ""))
    return f"{scheme}:{rest if rest.startswith('//') else '//' + rest}", prefix


class RedisLightningStore(CollectionBasedLightningStore):
    """A store in a database of a Redis (6.2 or newer) or Valkey server.

    Any number of processes may open the same store: their writes are atomic, and each learns at
    once of what the others do. Redis Cluster is not supported. When the server restarts, calls
    wait for it for up to 20 seconds, then raise `StoreUnavailableError`.

    Args:
        url: `redis://[user:password@]host:port/db`, `rediss://…` with TLS, `unix:///socket?db=0`,
            or the same with `valkey`. `?prefix=name` stands for the argument.
        prefix: Names the store: stores with different prefixes share a database and nothing else.
        client_kwargs: Further arguments of `redis.asyncio.Redis`.
        tracker: See `CollectionBasedLightningStore`.
        scan_debounce_seconds: See `CollectionBasedLightningStore`.

    Raises:
        ConfigurationError: URL, prefix or arguments cannot work. The first call raises it for a
            server that is too old, a login that fails, or data of a newer layout.
        MissingExtraError: redis is not installed.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        prefix: str = _DEFAULT_PREFIX,
        client_kwargs: dict[str, Any] | None = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        require_extra("redis", "redis")
        from agentlightning.store.collections.redis import RedisLightningCollections

        address, named = _split(url)
        if named is not None and prefix == _DEFAULT_PREFIX:
            prefix = named
        if not prefix or set(prefix) & set("{}"):
            raise ConfigurationError(
                f"{prefix!r} cannot be a prefix: it must not be empty, nor hold braces."
            )
        self.prefix = prefix
        self._redis = RedisLightningCollections(address, prefix=prefix, client_kwargs=client_kwargs)
        super().__init__(self._redis, tracker=tracker, scan_debounce_seconds=scan_debounce_seconds)
        if self._watchdog is not None:
            # Attempts may have run out while nobody had the store open.
            self._watchdog.expect(now())

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return LightningStoreCapabilities(
            thread_safe=True, async_safe=True, zero_copy=False, otlp_traces=False
        )

    async def close(self) -> None:
        # The watchdog may be waiting for a server that is gone.
        self._redis.give_up()
        await super().close()


def __getattr__(name: str) -> Any:
    if name == "RedisLightningCollections":
        from agentlightning.store.collections import redis

        return redis.RedisLightningCollections
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
