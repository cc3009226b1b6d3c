"""The store conformance suite through HTTP, over memory, SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentlightning.store.base import LightningStore
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.conformance.store_conformance import StoreConformance
from tests.support.postgres import PostgresProcess


@pytest.fixture(scope="module")
def host() -> Iterator[LightningStoreServer]:
    """A server whose store each test replaces, because starting one a test takes too long."""
    server = LightningStoreServer(InMemoryLightningStore(thread_safe=True), port=0)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@asynccontextmanager
async def served(
    host: LightningStoreServer, store: LightningStore
) -> AsyncIterator[LightningStoreClient]:
    assert host._served is not None
    host._served.site.store = store
    client = LightningStoreClient(host.endpoint)
    try:
        yield client
    finally:
        await client.close()
        await store.close()


class TestHttpOverMemory(StoreConformance):
    @pytest.fixture
    async def store(self, host: LightningStoreServer) -> AsyncIterator[LightningStore]:
        memory = InMemoryLightningStore(thread_safe=True, scan_debounce_seconds=0)
        async with served(host, memory) as client:
            yield client


class TestHttpOverSQLite(StoreConformance):
    @pytest.fixture
    async def store(
        self, host: LightningStoreServer, tmp_path: Path
    ) -> AsyncIterator[LightningStore]:
        sqlite = SQLiteLightningStore(str(tmp_path / "a.db"), scan_debounce_seconds=0)
        async with served(host, sqlite) as client:
            yield client


class TestHttpOverPostgres(StoreConformance):
    @pytest.fixture
    async def store(
        self, host: LightningStoreServer, postgres: PostgresProcess
    ) -> AsyncIterator[LightningStore]:
        stored = PostgresLightningStore(postgres.new_store(), scan_debounce_seconds=0)
        async with served(host, stored) as client:
            yield client


class TestServerInProcess(StoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[LightningStore]:
        memory = InMemoryLightningStore(thread_safe=True, scan_debounce_seconds=0)
        yield LightningStoreServer(memory, port=0)
        await memory.close()
