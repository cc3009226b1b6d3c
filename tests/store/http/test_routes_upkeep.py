"""Tests of moving and cleaning a store over HTTP."""

import pytest

from agentlightning.errors import InvalidRequestError
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.transfer import KINDS, copy_store
from tests.store.http.conftest import make_span


async def test_a_store_is_copied_through_http():
    """A whole store goes through a server into another one, and is there as it was."""
    source, target = InMemoryLightningStore(thread_safe=True), InMemoryLightningStore()
    server = LightningStoreServer(source, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        claim = await source.start_rollout("task", rollout_id="ro-copied")
        await source.add_many_spans([make_span(claim, attributes={"x": float("nan")})] * 1)
        await source.enqueue_rollout("waiting")
        await source.add_resources({})
        await copy_store(client, target)
        for kind in KINDS:
            page = await client.export_records(kind)
            assert page == await source.export_records(kind)
        assert await target.query_rollouts() == await source.query_rollouts()
        assert (await target.dequeue_rollout()) is not None
        with pytest.raises(InvalidRequestError):
            await client.import_records("rollouts", ["{}"])
    finally:
        await client.close()
        await server.stop()
        await source.close()
        await target.close()
