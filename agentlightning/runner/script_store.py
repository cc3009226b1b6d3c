"""The store that a script records into: given, opened by its URL, or the embedded default."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentlightning.errors import ConfigurationError
from agentlightning.settings import Settings

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["acquire_store", "default_store_url", "release_store"]


@dataclass(slots=True)
class _Opened:
    store: LightningStore
    users: int = 0


_lock = threading.Lock()
_opened: dict[str, _Opened] = {}


def default_store_url() -> str:
    """Return where scripts record when they name no store, and make its directory.

    `AGL_STORE_URL`, else `sqlite:///<runs>/script/store.db`, which `agl export` finds under
    `<runs>/script`.
    """
    settings = Settings.from_environment()
    if settings.store_url is not None:
        return settings.store_url
    directory = settings.runs_dir / "script"
    directory.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{directory / 'store.db'}"


def acquire_store(store: LightningStore | str | None) -> LightningStore:
    """Return a store; one that is opened here is shared, by its URL, until all released it.

    Raises:
        ConfigurationError: The URL names no store, or one that forgets everything when it closes.
    """
    if store is not None and not isinstance(store, str):
        return store
    url = default_store_url() if store is None else store
    if url.startswith("memory:"):
        raise ConfigurationError(
            "A memory:// store forgets all when the block ends: make an InMemoryLightningStore "
            "and pass the object."
        )
    with _lock:
        entry = _opened.get(url)
        if entry is None:
            from agentlightning.store.url import open_store

            entry = _opened[url] = _Opened(open_store(url))
        entry.users += 1
        return entry.store


async def release_store(store: LightningStore) -> None:
    """Give up what `acquire_store` returned; the last user of a store opened there closes it."""
    with _lock:
        url = next((url for url, entry in _opened.items() if entry.store is store), None)
        if url is None:
            return
        _opened[url].users -= 1
        if _opened[url].users:
            return
        del _opened[url]
    await store.close()
