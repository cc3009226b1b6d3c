"""The import path of 0.3.0 for the store's client and server."""

from agentlightning.store.http.client import LightningStoreClient
from agentlightning.store.http.server import LightningStoreServer

__all__ = ["LightningStoreClient", "LightningStoreServer"]
