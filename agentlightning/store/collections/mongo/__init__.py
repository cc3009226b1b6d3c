"""Collections in MongoDB: one partition of one database, through pymongo's asynchronous client."""

from agentlightning.store.collections.mongo.connection import Connection
from agentlightning.store.collections.mongo.database import MongoLightningCollections

__all__ = ["Connection", "MongoLightningCollections"]
