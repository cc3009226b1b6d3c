"""The LightningStore: where rollouts, attempts, spans, resources and workers live."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports
from agentlightning.store.base import (
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreStatistics,
)

if TYPE_CHECKING:
    from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
    from agentlightning.store.collection_based import CollectionBasedLightningStore
    from agentlightning.store.memory import InMemoryLightningStore
    from agentlightning.store.sqlite import SQLiteLightningStore, SQLiteStore
    from agentlightning.store.threading import LightningStoreThreaded
    from agentlightning.store.url import open_store

__all__ = [
    "CollectionBasedLightningStore",
    "InMemoryLightningStore",
    "LightningStore",
    "LightningStoreCapabilities",
    "LightningStoreClient",
    "LightningStoreServer",
    "LightningStoreStatistics",
    "LightningStoreThreaded",
    "SQLiteLightningStore",
    "SQLiteStore",
    "open_store",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CollectionBasedLightningStore": "agentlightning.store.collection_based",
        "InMemoryLightningStore": "agentlightning.store.memory",
        "LightningStoreClient": "agentlightning.store.client_server",
        "LightningStoreServer": "agentlightning.store.client_server",
        "LightningStoreThreaded": "agentlightning.store.threading",
        "SQLiteLightningStore": "agentlightning.store.sqlite",
        "SQLiteStore": "agentlightning.store.sqlite",
        "open_store": "agentlightning.store.url",
    },
)
