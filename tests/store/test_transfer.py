"""Moving, checking and pruning, for stores in this process; others run the same conformance."""

import pytest_asyncio

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.conformance.store_upkeep import UpkeepConformance


class TestMemory(UpkeepConformance):
    @pytest_asyncio.fixture
    async def store(self):
        store = InMemoryLightningStore()
        yield store
        await store.close()


class TestSQLite(UpkeepConformance):
    @pytest_asyncio.fixture
    async def store(self, tmp_path):
        store = SQLiteLightningStore(tmp_path / "store.db")
        yield store
        await store.close()
