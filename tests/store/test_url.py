"""Stores by URL."""

import asyncio
import sys

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.mongo import MongoLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.store.url import open_store


def test_known_schemes(tmp_path):
    """memory, sqlite, mongodb and http name the kinds of store."""
    assert isinstance(open_store("memory://"), InMemoryLightningStore)
    assert isinstance(open_store("http://127.0.0.1:1"), LightningStoreClient)
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    assert isinstance(store, SQLiteLightningStore)
    asyncio.run(store.close())
    assert (tmp_path / "a.db").exists()
    store = open_store("mongodb://host/db?partition=p&serverSelectionTimeoutMS=1")
    assert isinstance(store, MongoLightningStore)
    assert (store.database_name, store.partition_id) == ("db", "p")
    asyncio.run(store.close())


@pytest.mark.parametrize(
    "url", ["", "runs/a.db", "ftp://x", "memory://x", "postgresql+psycopg://h/d"]
)
def test_everything_else_is_refused(url):
    """What is no store URL is refused, with the forms that are."""
    with pytest.raises(ConfigurationError, match="sqlite:///"):
        open_store(url)


def test_memory_does_not_load_sqlalchemy():
    """Opening a store in memory loads no database library."""
    import subprocess

    code = (
        "import sys; from agentlightning.store.url import open_store; open_store('memory://');"
        "assert not {'sqlalchemy', 'fastapi', 'aiohttp'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
