"""The store in MongoDB's protocol, with and without a replica set: conformance, sharing, refusals."""

import asyncio
import gc
import pickle
import subprocess
import sys
import uuid
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from pymongo import MongoClient

from agentlightning.errors import (
    ConfigurationError,
    InvalidRequestError,
    MissingExtraError,
    StoreError,
    StoreUnavailableError,
)
from agentlightning.store import events
from agentlightning.store.collection_based import frame
from agentlightning.store.collections.mongo import lock, sessions
from agentlightning.store.mongo import MongoLightningStore
from agentlightning.store.url import open_store
from agentlightning.types import PromptTemplate
from tests.conformance.store_conformance import StoreConformance
from tests.conformance.store_spans import make_span
from tests.support.mongo_server import mongo_server

# pymongo, closed while it looks for a server, leaves its socket to the collector, which may come
# to it in a later test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest_asyncio.fixture
async def store(mongo_uri):
    store = MongoLightningStore(mongo_uri=mongo_uri)
    yield store
    await store.close()


@pytest.fixture(params=["replica set", "single server"])
def own_uri(request, tmp_path):
    """Give the address of a server that the test has for itself."""
    with mongo_server(tmp_path, request.param) as uri:
        yield uri


@pytest.fixture
def partition():
    """Give the name of a partition that several stores of a test share."""
    return uuid.uuid4().hex


class TestMongoConformance(StoreConformance):
    pass


async def test_everything_is_there_after_reopening(mongo_uri):
    """A partition that is opened again by name holds all records, the queue and the events."""
    url = f"{mongo_uri}runs?partition=week-1"
    store = open_store(url)
    await store.update_resources("v", {"p": PromptTemplate(template="1", engine="jinja")})
    await store.update_resources("v", {"p": PromptTemplate(template="2", engine="jinja")})
    queued = await store.enqueue_rollout({"q": 1}, metadata={"m": 1})
    done = await store.start_rollout(2, worker_id="w")
    span = await store.add_span(make_span(done))
    await store.finish_rollout(done.rollout_id, reward=1.0)
    before = list(await store.query_rollouts())
    await store.close()
    await store.close()

    store = open_store(url)
    assert list(await store.query_rollouts()) == before
    assert (await store.query_spans(done.rollout_id))[0] == span
    assert (await store.get_resources_by_id("v@1")).resources["p"].template == "1"
    assert (await store.get_worker_by_id("w")).status == "idle"
    assert (await store.dequeue_rollout()).rollout_id == queued.rollout_id
    assert await store.get_next_span_sequence_id(done.rollout_id, "any") == 3
    journal = store.subscribe(since=0)
    assert (await anext(journal)).seq == 1
    await journal.aclose()
    await store.close()


async def test_partitions_know_nothing_of_each_other(mongo_uri):
    """Stores share a database without seeing each other's data, even under the same ids."""
    one, other = (MongoLightningStore(mongo_uri=mongo_uri) for _ in range(2))
    assert one.partition_id != other.partition_id
    for store, text in ((one, "one"), (other, "other")):
        await store.enqueue_rollout(text, rollout_id="ro-same")
        started = await store.start_rollout(text, worker_id="w")
        await store.add_span(make_span(started, span_id="same"))
        await store.update_resources("v", {"p": PromptTemplate(template=text, engine="jinja")})
    for store, text in ((one, "one"), (other, "other")):
        statistics = await store.statistics()
        assert [statistics[f"total_{kind}"] for kind in ("rollouts", "spans", "workers")] == [
            2,
            1,
            1,
        ]
        assert (await store.dequeue_rollout()).input == text
        assert await store.dequeue_rollout() is None
        assert (await store.get_latest_resources()).resources["p"].template == text
        await store.close()


CLAIMER = """
import asyncio, sys
from agentlightning.store.mongo import MongoLightningStore

async def main():
    store = MongoLightningStore(mongo_uri=sys.argv[1], partition_id=sys.argv[3])
    await store.statistics()
    print("ready", flush=True)
    sys.stdin.readline()
    async def work(name):
        while (claimed := await store.dequeue_rollout(name)) is not None:
            await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")
            print(claimed.rollout_id, flush=True)
            await asyncio.sleep(0.01)  # Leave some to the others.
    await asyncio.gather(*(work(f"{sys.argv[2]}-{n}") for n in range(3)))
    await store.close()

asyncio.run(main())
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_two_processes_claim_without_doubling(mongo_uri, partition):
    """Two processes that claim from one partition at once get each rollout once, and all of them."""
    store = MongoLightningStore(mongo_uri=mongo_uri, partition_id=partition)
    ids = [(await store.enqueue_rollout(n)).rollout_id for n in range(30)]
    processes = [start(CLAIMER, mongo_uri, name, partition) for name in "ab"]
    for process in processes:
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ready"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    claimed = [(await asyncio.to_thread(process.communicate))[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(claimed[0] + claimed[1]) == sorted(ids)
    attempts = [await store.query_attempts(rollout_id) for rollout_id in ids]
    assert {len(of_one) for of_one in attempts} == {1}
    assert {of_one[0].status for of_one in attempts} == {"succeeded"}
    numbers = [event.seq for event in await store.collections.events.read(0)]
    assert numbers == list(range(1, len(numbers) + 1))
    await store.close()


async def test_two_stores_number_the_spans_of_one_rollout(mongo_uri, partition):
    """Spans that two stores add to one rollout at once get distinct sequence ids."""
    one, other = (
        MongoLightningStore(mongo_uri=mongo_uri, partition_id=partition) for _ in range(2)
    )
    started = await one.start_rollout(1)
    await asyncio.gather(
        *(store.add_span(make_span(started)) for store in (one, other) for _ in range(15))
    )
    spans = await one.query_spans(started.rollout_id)
    assert sorted(span.sequence_id for span in spans) == list(range(1, 31))
    await one.close()
    await other.close()


async def test_waiting_calls_are_woken_by_other_stores(mongo_uri, partition, monkeypatch):
    """Who waits for work, for an end or for an event learns of it from another store at once."""
    for module in (events, frame):
        monkeypatch.setattr(module, "RECHECK_SECONDS", 1000.0)
    one, other = (
        MongoLightningStore(mongo_uri=mongo_uri, partition_id=partition) for _ in range(2)
    )
    async with asyncio.timeout(60):
        work = asyncio.create_task(one.dequeue_rollout(wait_seconds=1000))
        journal = one.subscribe(since=0)
        first = asyncio.create_task(anext(journal))
        await asyncio.sleep(0.3)
        queued = await other.enqueue_rollout(1)
        assert (await first).rollout_id == queued.rollout_id
        claimed = await work
        assert claimed.rollout_id == queued.rollout_id
        end = asyncio.create_task(one.wait_for_rollouts(rollout_ids=[queued.rollout_id]))
        await asyncio.sleep(0.3)
        await other.update_attempt(queued.rollout_id, "latest", status="succeeded")
        assert (await end)[0].status == "succeeded"
        await journal.aclose()
    await one.close()
    await other.close()


WRITER = """
import asyncio, sys
from agentlightning.store.mongo import MongoLightningStore
from tests.conformance.store_spans import make_span

async def main():
    store = MongoLightningStore(mongo_uri=sys.argv[1], partition_id="p")
    async def work(worker):
        while True:
            await store.enqueue_rollout({"by": worker})
            claimed = await store.dequeue_rollout(worker)
            await store.add_many_spans([make_span(claimed) for _ in range(3)])
            await store.update_attempt(
                claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded"
            )
            print(claimed.rollout_id, claimed.attempt.attempt_id, flush=True)
    await asyncio.gather(*(work(f"w{n}") for n in range(4)))

asyncio.run(main())
"""


async def test_killed_process_loses_nothing_acknowledged(own_uri, monkeypatch):
    """After kill -9 in the middle of writing all that was acknowledged is there, nothing is half
    there, and no rollout is lost between queue and attempt.
    """
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(sessions, "STUCK_SECONDS", 0.5)
    process = start(WRITER, own_uri)
    lines = [(await asyncio.to_thread(process.stdout.readline)).split() for _ in range(20)]
    process.kill()
    lines += [line.split() for line in process.stdout.read().splitlines()]
    process.communicate()

    store = MongoLightningStore(mongo_uri=own_uri, partition_id="p")
    for rollout_id, attempt_id in (line for line in lines if len(line) == 2):
        attempts = {a.attempt_id: a for a in await store.query_attempts(rollout_id)}
        assert attempts[attempt_id].status == "succeeded"
        assert len(await store.query_spans(rollout_id, attempt_id)) == 3
    await store.enqueue_rollout("whoever writes next finishes what was begun")
    for rollout in await store.query_rollouts():
        spans = await store.query_spans(rollout.rollout_id)
        assert len(spans) in {0, 3}
        assert bool(await store.query_attempts(rollout.rollout_id)) == (rollout.status != "queuing")
    waiting = await store.query_rollouts(status_in=["queuing", "requeuing"])
    claimed = await store.dequeue_many_rollouts(limit=1000)
    assert {r.rollout_id for r in waiting} == {c.rollout_id for c in claimed}
    numbers = [event.seq for event in await store.collections.events.read(0, 10_000)]
    assert numbers == list(range(1, len(numbers) + 1))
    await store.close()


async def test_cancelled_claims_lose_no_rollout(store):
    """However a claim is cancelled, its rollout is claimed by the caller or is still queued."""
    total = 25
    for i in range(total):
        await store.enqueue_rollout(i)
    kept = []
    for turn in range(60):
        task = asyncio.create_task(store.dequeue_rollout())
        for _ in range(turn % 6):
            await asyncio.sleep(0.0015 * (turn % 5))
        task.cancel()
        try:
            kept.append(await task)
        except asyncio.CancelledError:
            continue
    rest = await store.dequeue_many_rollouts(limit=total)
    claimed = [c.rollout_id for c in (*kept, *rest) if c is not None]
    assert len(claimed) == len(set(claimed)) == total


async def test_server_that_comes_back_is_used_again(tmp_path):
    """While the server is away calls fail as retryable, and afterwards they succeed."""
    with mongo_server(tmp_path, "replica set", "--sync-on-commit") as uri:
        store = MongoLightningStore(
            mongo_uri=uri, partition_id="p", mongo_client_kwargs={"serverSelectionTimeoutMS": 1500}
        )
        await store.enqueue_rollout(1)
    calls = (store.enqueue_rollout(2), store.query_rollouts())
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, StoreUnavailableError)
        assert error.retryable
    port = int(uri.rsplit(":", 1)[1].rstrip("/"))
    with mongo_server(tmp_path, "replica set", port=port):
        await store.enqueue_rollout(3)
        assert [r.input for r in await store.query_rollouts()] == [1, 3]
        await store.close()
    gc.collect()


async def test_address_where_nobody_answers():
    """A wrong address is a retryable error that names it, within the time that is asked for."""
    store = MongoLightningStore(mongo_uri="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1"):
        await store.enqueue_rollout(1)
    await store.close()
    gc.collect()


@pytest.mark.parametrize(
    ("uri", "options", "milliseconds"),
    [
        ("mongodb://h/", None, 5000),
        ("mongodb://h/", {"serverselectiontimeoutms": 7}, None),
        ("mongodb://h/?serverSelectionTimeoutMS=9", None, None),
    ],
)
def test_time_to_look_for_a_server(uri, options, milliseconds):
    """Five seconds are looked for a server, unless the address or the options say otherwise."""
    store = MongoLightningStore(mongo_uri=uri, mongo_client_kwargs=options)
    kept = store.collections._connection._options
    assert kept.get("serverSelectionTimeoutMS") == milliseconds
    asyncio.run(store.close())


@pytest.mark.parametrize("uri", ["mongodb://", "mongodb://h:x/", "other://h/"])
async def test_impossible_addresses_are_refused(uri):
    """An address that cannot work is a configuration error."""
    store = MongoLightningStore(mongo_uri=uri)
    with pytest.raises(ConfigurationError):
        await store.enqueue_rollout(1)
    await store.close()


async def test_refused_credentials_say_so(tmp_path):
    """A server that wants a user it does not get is a configuration error, not a retryable one."""
    with mongo_server(tmp_path, "replica set", "--auth") as uri:
        store = MongoLightningStore(mongo_uri=uri)
        with pytest.raises(ConfigurationError, match="credentials"):
            await store.enqueue_rollout(1)
        await store.close()


def test_missing_library_names_the_extra(monkeypatch):
    """Without pymongo the error says what to install."""
    monkeypatch.setitem(sys.modules, "pymongo", None)
    with pytest.raises(MissingExtraError, match=r"agentlightning\[mongo\]"):
        MongoLightningStore()


def test_importing_the_store_loads_no_driver():
    """The module can be imported, and the class named, without pymongo."""
    code = "import sys, agentlightning.store.mongo; assert 'pymongo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_newer_layout_is_refused(own_uri):
    """A database of a later version is not touched, and the error names both versions."""
    store = MongoLightningStore(mongo_uri=own_uri)
    await store.enqueue_rollout(1)
    await store.close()
    with MongoClient(own_uri) as client:
        client["agentlightning"]["agentlightning_layout"].update_one({}, {"$set": {"version": 99}})
    store = MongoLightningStore(mongo_uri=own_uri)
    with pytest.raises(ConfigurationError, match=r"99.*layout 1"):
        await store.enqueue_rollout(1)
    await store.close()


async def test_values_that_cannot_be_stored_are_refused(store):
    """What is no JSON, or larger than a document may be, is refused, and nothing is stored."""
    for value in ({"f": object()}, "x" * (17 * 2**20)):
        with pytest.raises(InvalidRequestError):
            await store.enqueue_rollout(value)
    with pytest.raises(InvalidRequestError):
        await store.enqueue_rollout(1, rollout_id="\ud800")
    assert (await store.statistics())["total_rollouts"] == 0
    await store.enqueue_rollout({"dots.and": {"$signs": 2**80}})
    assert (await store.query_rollouts())[0].input == {"dots.and": {"$signs": 2**80}}


async def test_closed_store_says_so(mongo_uri):
    """Calls after close, and pickling, are refused with advice."""
    store = MongoLightningStore(mongo_uri=mongo_uri)
    with pytest.raises(StoreError, match="LightningStoreServer"):
        pickle.dumps(store)
    await store.enqueue_rollout(1)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.enqueue_rollout(1)


@pytest.mark.parametrize(
    ("url", "uri", "database", "partition"),
    [
        ("mongodb://h?", "mongodb://h/?", "agentlightning", "default"),
        ("mongodb://h/d?partition=p&w=1&", "mongodb://h/?w=1&", "d", "p"),
        ("mongodb://u:p@h,i/d?", "mongodb://u:p@h,i/?authSource=d&", "d", "default"),
        ("mongodb+srv://h/d?authSource=a&", "mongodb+srv://h/?authSource=a&", "d", "default"),
    ],
)
def test_urls(url, uri, database, partition):
    """A URL names database and partition, and keeps what is pymongo's."""
    # So that closing does not wait for the search for lost attempts, which nobody answers.
    soon = "serverSelectionTimeoutMS=1"
    store = MongoLightningStore.from_url(url + soon)
    parts = [urlsplit(one) for one in (store.collections._connection._uri, uri + soon)]
    assert parts[0]._replace(query="") == parts[1]._replace(query="")
    assert parse_qs(parts[0].query) == parse_qs(parts[1].query)
    assert (store.database_name, store.partition_id) == (database, partition)
    asyncio.run(store.close())


def test_partition_names():
    """Without a name a partition gets one of its own; an empty one is refused."""
    assert MongoLightningStore().partition_id.startswith("pt-")
    with pytest.raises(ConfigurationError, match="empty"):
        MongoLightningStore(partition_id="")


async def test_capabilities(store):
    """As in 0.3.0, the store may be shared by threads and loops, and by processes by its address."""
    assert store.capabilities["thread_safe"] is True
    assert store.capabilities["zero_copy"] is True
