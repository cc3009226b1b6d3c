"""Tests of the client against real servers: the same answers and errors as a local store."""

import asyncio
import gc
import multiprocessing
import pickle
import threading
import warnings
from typing import Any

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.errors import (
    ConfigurationError,
    InvalidRequestError,
    InvalidTransitionError,
    NotFoundError,
    StoreUnavailableError,
)
from agentlightning.semconv import LightningSpanAttributes
from agentlightning.store.client_server import LightningStoreClient, LightningStoreServer
from agentlightning.types import (
    LLM,
    AttemptedRollout,
    EnqueueRolloutRequest,
    PaginatedResult,
    PromptTemplate,
    RolloutConfig,
)
from tests.store.http.conftest import make_span

UNREACHABLE = "http://127.0.0.1:9"


async def test_answers_are_those_of_the_store(
    client: LightningStoreClient, server: LightningStoreServer
):
    """What the client returns equals what the store returns for the same call."""
    started = await client.start_rollout(
        {"q": 1}, mode="val", config=RolloutConfig(max_attempts=2), metadata={"a": 1}
    )
    assert started == await server.get_rollout_by_id(started.rollout_id)
    assert isinstance(started, AttemptedRollout)
    assert await client.get_rollout_by_id(started.rollout_id) == started
    assert await client.get_latest_attempt(started.rollout_id) == started.attempt
    listed = await client.query_rollouts(rollout_id_in=[started.rollout_id], mode_in=["val"])
    assert list(listed) == [started]
    assert isinstance(listed, PaginatedResult)
    assert (await client.statistics())["total_rollouts"] >= 1


async def test_none_for_what_is_not_there(client: LightningStoreClient):
    """Looking up unknown ids gives None and no error."""
    assert await client.get_rollout_by_id("ro-none") is None
    assert await client.get_latest_attempt("ro-none") is None
    assert await client.get_resources_by_id("rs-none") is None
    assert await client.get_worker_by_id("w-none") is None


async def test_errors_are_those_of_the_store(client: LightningStoreClient, claim: AttemptedRollout):
    """The client raises the classes that the store raises."""
    with pytest.raises(NotFoundError, match="ro-none"):
        await client.update_rollout("ro-none", mode="val")
    with pytest.raises(ValueError, match="ro-none"):
        await client.update_attempt("ro-none", "latest", status="failed")
    await client.update_rollout(claim.rollout_id, status="cancelled")
    with pytest.raises(InvalidTransitionError):
        await client.start_attempt(claim.rollout_id)
    with pytest.raises(InvalidRequestError, match="sort_by"):
        await client.query_rollouts(sort_by="nonsense")


async def test_enqueueing_is_ordered_and_keeps_ids(client: LightningStoreClient):
    """Several requests come back in order, under the ids of the caller where given."""
    requests = [
        EnqueueRolloutRequest(input=1, rollout_id="ro-mine"),
        EnqueueRolloutRequest(input=2, mode="train"),
    ]
    first, second = await client.enqueue_many_rollouts(requests)
    assert (first.rollout_id, first.input, second.input) == ("ro-mine", 1, 2)
    assert requests[1].rollout_id is None
    again = await client.enqueue_rollout(99, rollout_id="ro-mine")
    assert again.input == 1
    assert await client.enqueue_many_rollouts([]) == []
    claimed = await client.dequeue_many_rollouts(limit=5, worker_id="w-e")
    assert [c.input for c in claimed if c.rollout_id in {"ro-mine", second.rollout_id}] == [1, 2]
    assert await client.dequeue_many_rollouts(limit=0) == []
    assert await client.dequeue_rollout() is None


async def test_a_waiting_claim_is_woken(client: LightningStoreClient):
    """A claim that waits returns as soon as there is work, and None after its time."""
    assert await client.dequeue_rollout(wait_seconds=0.05) is None
    claiming = asyncio.create_task(client.dequeue_rollout("w-wait", wait_seconds=30))
    await asyncio.sleep(0.1)
    assert not claiming.done()
    rollout = await client.enqueue_rollout("wake")
    claimed = await asyncio.wait_for(claiming, 5)
    assert claimed is not None
    assert claimed.rollout_id == rollout.rollout_id


async def test_waiting_for_the_end(client: LightningStoreClient, claim: AttemptedRollout):
    """Waiting ends when all have ended, when time is over, and at once for unknown ids."""
    ids = [claim.rollout_id]
    assert await client.wait_for_rollouts(rollout_ids=ids, timeout=0.05) == []
    assert await client.wait_for_rollouts(rollout_ids=["ro-none"], timeout=30) == []
    waiting = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[*ids, "ro-none"]))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await client.update_attempt(claim.rollout_id, "latest", status="failed")
    (ended,) = await asyncio.wait_for(waiting, 5)
    assert (ended.rollout_id, ended.status) == (claim.rollout_id, "failed")


async def test_waits_longer_than_one_request(
    client: LightningStoreClient, claim: AttemptedRollout, monkeypatch: pytest.MonkeyPatch
):
    """A wait that the server cuts short goes on in further requests."""
    monkeypatch.setattr("agentlightning.store.http.client_work.WAIT_SLICE_SECONDS", 0.05)
    waiting = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    claiming = asyncio.create_task(client.dequeue_rollout("w-slices", wait_seconds=30))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert not claiming.done()
    await client.update_attempt(claim.rollout_id, "latest", status="succeeded")
    assert len(await asyncio.wait_for(waiting, 5)) == 1
    await client.enqueue_rollout(1)
    assert await asyncio.wait_for(claiming, 5) is not None


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


async def test_settling(client: LightningStoreClient, claim: AttemptedRollout):
    """A rollout is finished with a reward and an output, or failed with an error."""
    done = await client.finish_rollout(claim.rollout_id, reward={"a": 1.0}, output={"x": [1]})
    assert done.status == "succeeded"
    assert len(await client.query_spans(claim.rollout_id)) == 1
    other = await client.start_rollout(1)
    failed = await client.fail_rollout(other.rollout_id, other.attempt.attempt_id, error="broke")
    assert failed.status == "failed"


async def test_one_object_in_many_threads_and_loops(client: LightningStoreClient):
    """Threads with loops of their own share a client, and nothing is left open."""
    errors: list[BaseException] = []

    def work() -> None:
        async def calls() -> None:
            for _ in range(3):
                await client.get_rollout_by_id("ro-none")

        try:
            asyncio.run(calls())
            asyncio.run(calls())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    await client.get_rollout_by_id("ro-none")
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert errors == []


def test_a_forgotten_client_leaves_no_warnings(server: LightningStoreServer):
    """Connections close with their loop even if nobody closes the client."""

    async def forget() -> None:
        await LightningStoreClient(server.endpoint).statistics()
        gc.collect()
        await asyncio.sleep(0)

    async def keep(client: LightningStoreClient) -> None:
        await client.statistics()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(forget())
        kept = LightningStoreClient(server.endpoint)
        asyncio.run(keep(kept))
        asyncio.run(keep(kept))
        del kept
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def _enqueue_elsewhere(client: LightningStoreClient, answers: Any) -> None:
    async def call() -> str:
        rollout = await client.enqueue_rollout("from another process", mode="test")
        await client.close()
        return rollout.rollout_id

    answers.put(asyncio.run(call()))


async def test_travels_into_a_spawned_process(client: LightningStoreClient):
    """A pickled client works in a process that shares nothing with this one."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_enqueue_elsewhere, args=(client, answers))
    process.start()
    rollout_id = await asyncio.to_thread(answers.get)
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    process.close()
    answers.close()
    found = await client.get_rollout_by_id(rollout_id)
    assert found is not None
    assert found.input == "from another process"
    await client.update_rollout(rollout_id, status="cancelled")


def test_pickling_keeps_the_configuration():
    """A copy has the same address, patience and token."""
    original = LightningStoreClient("http://h:1/", retry_delays=(3,), token="t", request_timeout=7)
    copy = pickle.loads(pickle.dumps(original))
    assert copy._transport.config == original._transport.config
    assert repr(copy) == "LightningStoreClient('http://h:1')"


@pytest.mark.parametrize(
    "arguments",
    [{"server_address": "http://h:1"}, {"endpoint": "http://h:1/"}, {"base_url": "http://h:1/v1/agl"}],
)  # fmt: skip
def test_spellings_of_the_address(arguments: dict[str, str]):
    """The address may be given under each of its names, with or without the API's path."""
    client = LightningStoreClient(**arguments)
    assert client.server_address == "http://h:1/v1/agl"
    assert client.otlp_traces_endpoint() == "http://h:1/v1/traces"
    assert all(client.capabilities.values())


@pytest.mark.parametrize("address", [None, "", "localhost:4747", "ftp://h", "http://"])
def test_impossible_addresses(address: str | None):
    """What is no HTTP address is refused at construction."""
    with pytest.raises(ConfigurationError):
        LightningStoreClient(address)


async def test_an_absent_store_is_unavailable():
    """Calls to a store that is not there raise an error that says so; a claim finds no work."""
    client = LightningStoreClient(UNREACHABLE, retry_delays=(0.01,), health_retry_delays=())
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        await client.statistics()
    with pytest.raises(ConnectionError):
        async for _ in client.subscribe():
            pass
    assert not await client.is_healthy()
    assert await client.dequeue_rollout("w") is None
    began = monotonic()
    assert await client.dequeue_rollout("w", wait_seconds=0.2) is None
    assert monotonic() - began >= 0.2
    await client.close()
