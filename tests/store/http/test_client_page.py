"""Tests of pages as the client gives them."""

from typing import Any

from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import (
    AttemptedRollout,
)
from tests.store.http.conftest import make_span


async def test_pages(client: LightningStoreClient, claim: AttemptedRollout):
    """Limits and offsets are those of the store, zero included."""
    await client.add_many_spans([make_span(claim, name=f"n{i}") for i in range(3)])
    page: Any = await client.query_spans(claim.rollout_id, limit=1, offset=1, sort_order="desc")
    assert ([s.name for s in page], page.limit, page.offset, page.total) == (["n1"], 1, 1, 3)
    none: Any = await client.query_spans(claim.rollout_id, limit=0)
    assert (list(none), none.limit, none.total) == ([], 0, 3)
    attempts: Any = await client.query_attempts(claim.rollout_id, limit=5)
    assert (list(attempts), attempts.total) == (
        [await client.get_latest_attempt(claim.rollout_id)],
        1,
    )
