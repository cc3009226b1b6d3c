"""The store in Redis: conformance, sharing between processes, restarts, refusals."""

import uuid

import pytest
import pytest_asyncio

from agentlightning.store.redis import RedisLightningStore
from tests.conformance.store_conformance import StoreConformance
from tests.support.redis_server import RedisProcess


@pytest.fixture(scope="module")
def server():
    process = RedisProcess()
    yield process
    process.close()


class TestRedisConformance(StoreConformance):
    @pytest_asyncio.fixture
    async def store(self, server):
        store = RedisLightningStore(server.url(uuid.uuid4().hex))
        yield store
        await store.close()
