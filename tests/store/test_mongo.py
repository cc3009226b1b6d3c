"""The store in MongoDB's protocol, with and without a replica set: conformance, sharing, refusals."""

import pytest_asyncio

from agentlightning.store.mongo import MongoLightningStore
from tests.conformance.store_conformance import StoreConformance
from tests.support.mongo_server import mongo_uri

__all__ = ["mongo_uri"]


@pytest_asyncio.fixture
async def store(mongo_uri):
    store = MongoLightningStore(mongo_uri=mongo_uri)
    yield store
    await store.close()


class TestMongoConformance(StoreConformance):
    pass
