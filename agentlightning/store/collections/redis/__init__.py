"""Collections in Redis or Valkey, through redis-py's asyncio client."""

from agentlightning.store.collections.redis.database import RedisLightningCollections

__all__ = ["RedisLightningCollections"]
