"""Scripts share the stores that they name by URL, and the last one closes them."""

import pytest

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.runner.script_store import acquire_store, default_store_url, release_store
from agentlightning.store.memory import InMemoryLightningStore


async def test_a_url_is_opened_once(tmp_path):
    """Two users of a URL get one store; it is closed when both released it, and opened anew."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    first = acquire_store(url)
    assert acquire_store(url) is first
    await release_store(first)
    await first.start_rollout("task")
    await release_store(first)
    with pytest.raises(StoreError):
        await first.query_rollouts()
    again = acquire_store(url)
    assert len(await again.query_rollouts()) == 1
    await release_store(again)


async def test_a_given_store_stays_open():
    """A store object belongs to its owner."""
    store = InMemoryLightningStore()
    assert acquire_store(store) is store
    await release_store(store)
    await store.start_rollout("task")


def test_the_default(tmp_path, monkeypatch):
    """The variable names the store, else there is a file in the directory of runs."""
    monkeypatch.setenv("AGL_RUNS_DIR", str(tmp_path / "r"))
    monkeypatch.delenv("AGL_STORE_URL", raising=False)
    assert default_store_url() == f"sqlite:///{tmp_path / 'r' / 'script' / 'store.db'}"
    assert (tmp_path / "r" / "script").is_dir()
    monkeypatch.setenv("AGL_STORE_URL", "http://h:1")
    assert default_store_url() == "http://h:1"
    with pytest.raises(ConfigurationError, match="forgets"):
        acquire_store("memory://")
