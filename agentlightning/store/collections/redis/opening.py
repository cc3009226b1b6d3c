"""What is looked at when a store opens: version, layout, and whether the server keeps data."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis

from agentlightning.errors import ConfigurationError
from agentlightning.store.collections.redis.layout import LAYOUT_VERSION

logger = logging.getLogger(__name__)

_LEAST_VERSION: Final = (6, 2)


async def prepare(client: Redis, base: str) -> None:
    """Check the server and the layout of what it holds; log what endangers the data.

    Raises:
        ConfigurationError: The server is too old, or holds data of a newer layout.
    """
    facts: dict[str, Any] = await client.info()
    _check_version(str(facts.get("redis_version", "0")))
    await _check_layout(client, base)
    if facts.get("cluster_enabled"):
        raise ConfigurationError(
            "The server is a node of a Redis cluster, which is not supported; use a single "
            "primary, with replicas if need be."
        )
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        logger.warning(
            "the redis server may drop the store's data when memory runs short; "
            "set maxmemory-policy noeviction",
            extra={"maxmemory_policy": policy},
        )
    if not facts.get("aof_enabled") and not await _has_snapshots(client):
        logger.warning(
            "the redis server keeps nothing on disk, so a restart loses everything; "
            "set appendonly yes, and appendfsync always to keep all that was acknowledged"
        )


def _check_version(version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _LEAST_VERSION:
        raise ConfigurationError(
            f"The Redis server is version {version}; a store needs Redis 6.2 or Valkey."
        )


async def _check_layout(client: Redis, base: str) -> None:
    await client.execute_command("HSETNX", base + "meta", "layout", LAYOUT_VERSION)
    found: Any = await client.execute_command("HGET", base + "meta", "layout")
    layout = int(found)
    if layout != LAYOUT_VERSION:
        raise ConfigurationError(
            f"{base}* has store layout {layout}, this version of agentlightning reads layout "
            f"{LAYOUT_VERSION}; upgrade agentlightning, or give another prefix."
        )


async def _has_snapshots(client: Redis) -> bool:
    """Return whether the server saves snapshots; hosted servers do not tell, and do."""
    try:
        answer: dict[Any, Any] = await client.config_get("save")
    except exceptions.ResponseError:
        return True
    return any(answer.values())
