"""Tests of the client's calls about the store as a whole; streams are tested with the transport."""

from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.retention import RetentionPolicy
from tests.store.http.conftest import make_span


async def test_what_was_read_can_be_removed():
    """Marking and a policy work over HTTP as they do in process."""
    store = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(store, port=0)
    await server.start()
    client = LightningStoreClient(server.endpoint)
    try:
        claims = [await client.start_rollout(number) for number in range(2)]
        for claim in claims:
            await client.add_span(make_span(claim))
            await client.finish_rollout(claim.rollout_id)
        assert await client.mark_read([claims[0].rollout_id, "ro-none"]) == 1
        policy = RetentionPolicy(keep_rollouts=0)
        planned = await client.apply_retention(policy, dry_run=True)
        assert (planned.rollouts, planned.unread, planned.dry_run) == (1, 1, True)
        assert len(await client.query_spans(claims[0].rollout_id)) == 1
        done = await client.apply_retention(policy)
        assert done.rollout_ids == [claims[0].rollout_id]
        assert len(await client.query_spans(claims[0].rollout_id)) == 0
        assert len(await client.query_spans(claims[1].rollout_id)) == 1
    finally:
        await client.close()
        await server.stop()
        await store.close()
