"""Tests of the client's calls about spans, resources and workers."""

from typing import Any

import pytest

from agentlightning.errors import (
    NotFoundError,
)
from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import (
    LLM,
    AttemptedRollout,
    PromptTemplate,
)
from tests.store.http.conftest import make_span


async def test_spans(client: LightningStoreClient, claim: AttemptedRollout):
    """Spans are numbered, deduplicated and read back equal; the caller's objects stay as is."""
    first, second = make_span(claim), make_span(claim, sequence_id=7)
    stored = await client.add_many_spans([first, second])
    assert [span.sequence_id for span in stored] == [1, 7]
    assert first.sequence_id == 0
    assert list(await client.query_spans(claim.rollout_id)) == list(stored)
    assert await client.add_span(second) is None
    assert await client.add_many_spans([]) == []
    assert await client.get_next_span_sequence_id(claim.rollout_id, "x") == 8
    pairs = [(claim.rollout_id, "x")] * 2
    assert await client.get_many_span_sequence_ids(pairs) == [9, 10]
    assert await client.get_many_span_sequence_ids([]) == []
    with pytest.raises(NotFoundError):
        await client.add_span(make_span(claim, attempt_id="at-none"))


async def test_late_spans_come_back_marked(client: LightningStoreClient, claim: AttemptedRollout):
    """A span of an ended attempt is returned as the store keeps it."""
    await client.update_attempt(claim.rollout_id, "latest", status="succeeded")
    late = await client.add_span(make_span(claim))
    assert late is not None
    assert late.attributes[LightningSpanAttributes.LATE.value] is True
    assert [late] == list(await client.query_spans(claim.rollout_id))


async def test_large_batches_are_cut(
    client: LightningStoreClient, claim: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
):
    """A batch over the size of one request is sent in several, in order."""
    monkeypatch.setattr("agentlightning.store.http.client_data.MAX_BULK_BYTES", 2000)
    spans = [make_span(claim, attributes={"i": i}) for i in range(20)]
    stored = await client.add_many_spans(spans)
    assert [span.attributes["i"] for span in stored] == list(range(20))
    assert [span.sequence_id for span in stored] == list(range(1, 21))


async def test_resources_and_workers(client: LightningStoreClient):
    """Resources and workers travel with their types."""
    made = await client.add_resources(
        {
            "llm": LLM(endpoint="http://x", model="m"),
            "p": PromptTemplate(template="{a}", engine="f-string"),
        }
    )
    assert isinstance(made.resources["p"], PromptTemplate)
    assert await client.get_latest_resources() == made
    second = await client.update_resources(made.resources_id, {})
    assert second.version == 2
    assert await client.get_resources_by_id(f"{made.resources_id}@1") == made
    assert list(await client.query_resources(resources_id=made.resources_id)) == [second]
    worker = await client.update_worker("w-client", {"cpu": 1})
    assert await client.get_worker_by_id("w-client") == worker
    page: Any = await client.query_workers(worker_id_contains="w-cli", limit=1)
    assert (list(page), page.limit) == ([worker], 1)
