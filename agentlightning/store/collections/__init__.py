"""Storage backends behind the collection-based store, and the seam they share."""

from agentlightning.store.collections.base import (
    AtomicLabels,
    AtomicMode,
    Collection,
    DuplicatedPrimaryKeyError,
    EventJournal,
    KeyValue,
    LightningCollections,
    Queue,
)
from agentlightning.store.collections.changes import Changes, Reply
from agentlightning.store.collections.memory import (
    DequeBasedQueue,
    DictBasedKeyValue,
    InMemoryLightningCollections,
)
from agentlightning.store.collections.memory_journal import MemoryJournal
from agentlightning.store.collections.table import ListBasedCollection

__all__ = [
    "AtomicLabels",
    "AtomicMode",
    "Changes",
    "Collection",
    "DequeBasedQueue",
    "DictBasedKeyValue",
    "DuplicatedPrimaryKeyError",
    "EventJournal",
    "InMemoryLightningCollections",
    "KeyValue",
    "LightningCollections",
    "ListBasedCollection",
    "MemoryJournal",
    "Queue",
    "Reply",
]
