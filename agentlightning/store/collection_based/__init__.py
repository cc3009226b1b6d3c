"""The store's logic over any set of collections, and the decorators its methods carry."""

from agentlightning.store.collection_based.frame import healthcheck_before, tracked
from agentlightning.store.collection_based.store import CollectionBasedLightningStore

__all__ = ["CollectionBasedLightningStore", "healthcheck_before", "tracked"]
