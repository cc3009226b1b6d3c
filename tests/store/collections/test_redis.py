"""Collections in Redis: the common rules, blocks that conflict, indexes, the journal's limits."""

import uuid

import pytest
import pytest_asyncio

from agentlightning.store.redis import RedisLightningStore
from tests.store.collections.model import CollectionConformance
from tests.support.redis_server import RedisProcess


@pytest.fixture(scope="module")
def server():
    process = RedisProcess()
    yield process
    process.close()


@pytest_asyncio.fixture
async def store(server):
    store = RedisLightningStore(server.url(uuid.uuid4().hex))
    yield store
    await store.close()


@pytest.fixture
def rows(store):
    return store.collections


class TestRedisCollections(CollectionConformance):
    pass
