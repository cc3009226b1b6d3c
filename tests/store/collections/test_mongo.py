"""Collections in MongoDB's protocol: the common rules, with and without a replica set."""

import pytest
import pytest_asyncio

from agentlightning.store.mongo import MongoLightningStore
from tests.store.collections.model import CollectionConformance
from tests.support.mongo_server import mongo_uri

__all__ = ["mongo_uri"]


@pytest_asyncio.fixture
async def store(mongo_uri):
    store = MongoLightningStore(mongo_uri=mongo_uri)
    yield store
    await store.close()


@pytest.fixture
def rows(store):
    return store.collections


class TestMongoCollections(CollectionConformance):
    pass
