"""Compat 0.3.0: the import path of `agentlightning.store.collections`."""

from agentlightning.store.collections import (
    AtomicLabels,
    AtomicMode,
    Collection,
    DequeBasedQueue,
    DictBasedKeyValue,
    DuplicatedPrimaryKeyError,
    InMemoryLightningCollections,
    KeyValue,
    LightningCollections,
    ListBasedCollection,
    Queue,
)

__all__ = [
    "AtomicLabels",
    "AtomicMode",
    "Collection",
    "DequeBasedQueue",
    "DictBasedKeyValue",
    "DuplicatedPrimaryKeyError",
    "InMemoryLightningCollections",
    "KeyValue",
    "LightningCollections",
    "ListBasedCollection",
    "Queue",
]
