"""The store in Redis: conformance, sharing between processes, restarts, refusals."""

import asyncio
import importlib.util
import logging
import math
import pickle
import shutil
import subprocess
import sys
import uuid

import pytest
import pytest_asyncio
from redis import Redis

from agentlightning.errors import (
    ConfigurationError,
    InvalidRequestError,
    MissingExtraError,
    StoreError,
    StoreUnavailableError,
)
from agentlightning.store.collections.redis import opening
from agentlightning.store.collections.redis import server as talking
from agentlightning.store.redis import RedisLightningStore
from agentlightning.store.url import open_store
from agentlightning.types import PromptTemplate, RolloutConfig
from tests.conformance.store_claims import ClaimConformance
from tests.conformance.store_conformance import StoreConformance
from tests.conformance.store_spans import SpanConformance, make_span
from tests.support.cut_off import CutOff
from tests.support.redis_server import RedisProcess


@pytest.fixture(scope="module")
def server():
    process = RedisProcess()
    yield process
    process.close()


@pytest.fixture
def own_server():
    """A server that a test may kill."""
    process = RedisProcess()
    yield process
    process.close()


@pytest.fixture
def url(server):
    return server.url(uuid.uuid4().hex)


@pytest_asyncio.fixture
async def store(url):
    store = RedisLightningStore(url)
    yield store
    await store.close()


class TestRedisConformance(StoreConformance):
    pass


DEBIAN = shutil.which("redis-server")
if DEBIAN is not None:

    @pytest.fixture(scope="module")
    def redis_itself():
        process = RedisProcess(DEBIAN)
        yield process
        process.close()

    class TestOnRedisItself(ClaimConformance, SpanConformance):
        @pytest_asyncio.fixture
        async def store(self, redis_itself):
            store = RedisLightningStore(redis_itself.url(uuid.uuid4().hex))
            yield store
            await store.close()


# Keeping.


async def test_everything_is_there_after_reopening(url):
    """Records, the queue, counters and events are there for the next store object."""
    store = RedisLightningStore(url)
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
    assert isinstance(store, RedisLightningStore)
    assert list(await store.query_rollouts()) == before
    assert (await store.query_spans(done.rollout_id))[0] == span
    assert (await store.get_resources_by_id("v@1")).resources["p"].template == "1"
    assert (await store.get_worker_by_id("w")).status == "idle"
    assert (await store.dequeue_rollout()).rollout_id == queued.rollout_id
    assert await store.get_next_span_sequence_id(done.rollout_id, "any") == 3
    events = store.subscribe(since=0)
    assert (await anext(events)).seq == 1
    await events.aclose()
    await store.close()


async def test_odd_values_survive(store):
    """NaN, lone surrogates and NUL come back as they went in, in values and in ids."""
    odd = "a\ud800b\x00{}:€"
    queued = await store.enqueue_rollout({"t": odd, "n": math.nan}, rollout_id=odd)
    claimed = await store.dequeue_rollout(odd)
    assert claimed is not None
    assert claimed.rollout_id == queued.rollout_id == odd
    assert claimed.input["t"] == odd
    assert math.isnan(claimed.input["n"])
    await store.add_span(make_span(claimed))
    assert len(await store.query_spans(odd)) == 1
    assert (await store.get_worker_by_id(odd)).current_rollout_id == odd


async def test_prefixes_are_stores_of_their_own(server, url):
    """Stores with different prefixes in one database see nothing of each other."""
    one, other = RedisLightningStore(url), RedisLightningStore(server.url(), prefix="other")
    assert one.prefix != other.prefix
    rollout = await one.enqueue_rollout(1, rollout_id="ro-same")
    assert await other.get_rollout_by_id("ro-same") is None
    assert await other.dequeue_rollout() is None
    assert (await other.statistics())["total_rollouts"] == 0
    await other.enqueue_rollout(2, rollout_id="ro-same")
    assert (await one.dequeue_rollout()).input == rollout.input
    with server.client() as client:
        keys = client.keys("*")
    assert all(key.startswith(b"{") for key in keys)
    await one.close()
    await other.close()


async def test_value_without_json_form_is_refused(store):
    """An input that is no JSON is refused with a clear error, and nothing is stored."""
    with pytest.raises(InvalidRequestError, match="JSON"):
        await store.enqueue_rollout({"f": object()})
    assert (await store.statistics())["total_rollouts"] == 0


# Several processes.

CLAIMER = """
import asyncio, sys
from agentlightning.store.redis import RedisLightningStore
from tests.conformance.store_spans import make_span

async def main():
    store = RedisLightningStore(sys.argv[1])

    async def work(name):
        while (claimed := await store.dequeue_rollout(name, wait_seconds=0.2)) is not None:
            await store.add_span(make_span(claimed))
            await store.update_attempt(
                claimed.rollout_id, claimed.attempt.attempt_id, status="succeeded"
            )
            print(claimed.rollout_id, flush=True)

    await asyncio.gather(*(work(f"{sys.argv[2]}-{n}") for n in range(4)))
    await store.close()

asyncio.run(main())
"""


async def test_processes_share_the_queue(store, url):
    """Two processes that claim at once get each rollout exactly once between them."""
    ids = [(await store.enqueue_rollout(number)).rollout_id for number in range(120)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, url, name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=60)
    claimed = []
    for process in processes:
        out, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        claimed += out.split()
    assert sorted(claimed) == sorted(ids)
    assert {rollout.status for rollout in ended} == {"succeeded"}
    for rollout_id in ids:
        assert len(await store.query_attempts(rollout_id)) == 1
    events = [event.seq async for event in _all_events(store)]
    assert events == list(range(1, len(events) + 1))


WRITER = """
import asyncio, sys
from agentlightning.store.redis import RedisLightningStore
from agentlightning.types import RolloutConfig
from tests.conformance.store_spans import make_span

async def main():
    store = RedisLightningStore(sys.argv[1])
    retry = RolloutConfig(max_attempts=9, retry_condition=["failed"])

    async def work(name):
        for i in range(100_000):
            await store.enqueue_rollout(i, config=retry)
            claimed = await store.dequeue_rollout(name)
            await store.add_many_spans([make_span(claimed) for _ in range(3)])
            status = "succeeded" if i % 2 else "failed"
            await store.update_attempt(
                claimed.rollout_id, claimed.attempt.attempt_id, status=status
            )
            print(claimed.rollout_id, claimed.attempt.attempt_id, status, flush=True)

    await asyncio.gather(*(work(f"w{n}") for n in range(4)))

asyncio.run(main())
"""


async def test_killed_process_leaves_whole_steps(store, url):
    """After kill -9 of a writing process all that it was told is there, no rollout is lost between
    queue and attempt, and what it was about to claim can be claimed at once.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().split() for _ in range(40)]
    process.kill()
    acknowledged += [line.split() for line in process.stdout.read().splitlines()]
    process.stdout.close()
    process.wait()
    for rollout_id, attempt_id, status in (line for line in acknowledged if len(line) == 3):
        attempts = {a.attempt_id: a for a in await store.query_attempts(rollout_id)}
        assert attempts[attempt_id].status == status
        assert len(await store.query_spans(rollout_id, attempt_id)) == 3
    waiting = await store.query_rollouts(status_in=["queuing", "requeuing"])
    claimed = []
    while more := await store.dequeue_many_rollouts(limit=1000):
        claimed += more
    assert sorted(r.rollout_id for r in waiting) == sorted(c.rollout_id for c in claimed)


async def _all_events(store):
    last = await store.last_event_seq()
    async for event in store.subscribe(since=0):
        yield event
        if event.seq == last:
            return


async def test_waiting_hears_of_other_processes_at_once(store, url):
    """Claims, waits and subscribers are woken by what another process does, without polling."""
    waiting = asyncio.create_task(store.dequeue_rollout(wait_seconds=60))
    await asyncio.sleep(0.1)
    other = RedisLightningStore(url)
    # Well below the interval at which a waiting call would look by itself.
    async with asyncio.timeout(5):
        queued = await other.enqueue_rollout(1)
        claimed = await waiting
        assert claimed is not None
        assert claimed.rollout_id == queued.rollout_id
        ending = asyncio.create_task(
            store.wait_for_rollouts(rollout_ids=[queued.rollout_id], timeout=60)
        )
        events = store.subscribe(since=await store.last_event_seq(), kinds=["rollout_updated"])
        following = asyncio.create_task(anext(events))
        await asyncio.sleep(0.1)
        await other.update_attempt(queued.rollout_id, "latest", status="succeeded")
        assert [rollout.status for rollout in await ending] == ["succeeded"]
        assert (await following).status == "succeeded"
    await events.aclose()
    await other.close()


async def test_watch_survives_a_restart_of_the_server(own_server):
    """After the server was killed and started again, others' changes still wake at once."""
    store, other = RedisLightningStore(own_server.url()), RedisLightningStore(own_server.url())
    waiting = asyncio.create_task(store.dequeue_rollout(wait_seconds=60))
    await asyncio.sleep(0.1)
    own_server.kill()
    await asyncio.to_thread(own_server.start)
    await other.enqueue_rollout(1)
    async with asyncio.timeout(7):
        assert await waiting is not None
    await store.close()
    await other.close()


async def test_attempt_lost_while_nobody_looked_is_found(url):
    """An attempt that ran out while no store was open is taken away when one opens."""
    store = RedisLightningStore(url)
    config = RolloutConfig(
        unresponsive_seconds=0.05, max_attempts=2, retry_condition=["unresponsive"]
    )
    started = await store.start_rollout(1, config=config)
    await store.close()
    await asyncio.sleep(0.06)
    store = RedisLightningStore(url)
    claimed = await store.dequeue_rollout(wait_seconds=30)
    assert claimed is not None
    assert claimed.rollout_id == started.rollout_id
    await store.close()


# Trouble.


async def test_killed_server_loses_nothing_acknowledged(own_server):
    """While the server is killed and started again calls go on, and afterwards everything that
    was acknowledged is there once.
    """
    store = RedisLightningStore(own_server.url())
    acknowledged: dict[str, str] = {}
    stop = asyncio.Event()

    async def work(name):
        while not stop.is_set():
            queued = await store.enqueue_rollout(name)
            claimed = await store.dequeue_rollout(name)
            assert claimed is not None
            await store.add_many_spans([make_span(claimed) for _ in range(3)])
            attempt = claimed.attempt.attempt_id
            await store.update_attempt(claimed.rollout_id, attempt, status="succeeded")
            acknowledged[claimed.rollout_id] = attempt
            acknowledged.setdefault(queued.rollout_id, "")

    workers = [asyncio.create_task(work(f"w{number}")) for number in range(4)]
    for _ in range(2):
        before = len(acknowledged)
        while len(acknowledged) < before + 15:
            await asyncio.sleep(0.01)
        own_server.kill()
        await asyncio.to_thread(own_server.start)
    stop.set()
    await asyncio.gather(*workers)
    assert (await store.statistics())["total_rollouts"] == len(acknowledged)
    for rollout_id, attempt_id in acknowledged.items():
        (attempt,) = await store.query_attempts(rollout_id)
        assert attempt.attempt_id == attempt_id
        assert attempt.status == "succeeded"
        assert [span.sequence_id for span in await store.query_spans(rollout_id)] == [1, 2, 3]
    assert await store.dequeue_rollout() is None
    await store.close()


async def test_lost_answer_of_a_commit(own_server):
    """A commit whose answer is lost is asked for again, and happens once."""
    async with CutOff(own_server.socket, f"{own_server.folder}/p") as way:
        store = RedisLightningStore(f"unix://{way.path}")
        await store.enqueue_rollout("first")
        way.lose_answer_to(b"rollout_created")
        second = await store.enqueue_rollout("second")
        assert way.lost == 1
        found = await store.query_rollouts()
        assert [rollout.input for rollout in found] == ["first", "second"]
        assert found[1].rollout_id == second.rollout_id
        events = [event async for event in _all_events(store)]
        assert [event.seq for event in events] == [1, 2]
        # Elsewhere, because closing may wait for the watchdog, which waits for the way here.
        await asyncio.to_thread(asyncio.run, store.close())


async def test_server_that_stays_away(own_server, monkeypatch):
    """A server that does not come back is reported, as retryable, after a while."""
    store = RedisLightningStore(own_server.url())
    await store.enqueue_rollout(1)
    own_server.kill()
    monkeypatch.setattr(talking, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        await store.enqueue_rollout(2)
    assert caught.value.retryable
    monkeypatch.undo()
    await asyncio.to_thread(own_server.start)
    await store.enqueue_rollout(3)
    assert [r.input for r in await store.query_rollouts()] == [1, 3]
    await store.close()


async def test_unreachable_server(monkeypatch):
    """A server that is not there is named, without the password."""
    monkeypatch.setattr(talking, "OPEN_SECONDS", 0.2)
    store = RedisLightningStore("redis://:secret@127.0.0.1:1/0?password=secret")
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1.*start it") as caught:
        await store.enqueue_rollout(1)
    assert "secret" not in str(caught.value)
    await store.close()


async def test_cancelled_claims_lose_no_rollout(store):
    """However a claim is cancelled, its rollout is claimed by the caller or is still queued."""
    total = 30
    for number in range(total):
        await store.enqueue_rollout(number)
    kept = []
    for turn in range(90):
        task = asyncio.create_task(store.dequeue_rollout())
        for _ in range(turn % 6):
            await asyncio.sleep(0.0004 * (turn % 4))
        task.cancel()
        try:
            kept.append(await task)
        except asyncio.CancelledError:
            continue
    claimed = [c.rollout_id for c in kept if c is not None]
    while (rest := await store.dequeue_rollout()) is not None:
        claimed.append(rest.rollout_id)
    assert len(claimed) == len(set(claimed)) == total


async def test_scripts_that_were_flushed_are_sent_again(store, server):
    """A server that forgot the scripts gets them again."""
    await store.enqueue_rollout(1)
    with server.client() as client:
        client.script_flush()
    assert (await store.dequeue_rollout()).input == 1


async def test_many_writers_of_one_rollout(store):
    """Steps that get in each other's way are run again until each has happened."""
    started = await store.start_rollout(1)
    await asyncio.gather(*(store.add_span(make_span(started)) for _ in range(40)))
    spans = await store.query_spans(started.rollout_id)
    assert sorted(span.sequence_id for span in spans) == list(range(1, 41))


# Refusals and warnings.


async def test_newer_layout_is_refused(url, server):
    """Data of a later version is not touched, and the error names both versions."""
    with server.client() as client:
        client.hset(f"{{{url.rpartition('=')[2]}}}:meta", "layout", 99)
    store = RedisLightningStore(url)
    with pytest.raises(ConfigurationError, match="99"):
        await store.enqueue_rollout(1)
    await store.close()


async def test_old_server_is_refused(store, monkeypatch):
    """A server that lacks what the store needs is named with its version."""
    monkeypatch.setattr(opening, "_LEAST_VERSION", (99, 0))
    with pytest.raises(ConfigurationError, match=r"is version \d"):
        await store.enqueue_rollout(1)


async def test_forgetful_servers_are_logged(server, caplog):
    """A server that keeps nothing on disk, or may evict, is warned of once; a safe one is not."""
    forgetful = RedisProcess(
        appendonly="no", **{"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}
    )
    try:
        for process, expected in ((server, 0), (forgetful, 2)):
            caplog.clear()
            store = RedisLightningStore(process.url(uuid.uuid4().hex))
            with caplog.at_level(logging.WARNING):
                await store.enqueue_rollout(1)
                await store.enqueue_rollout(2)
            warned = [record.message for record in caplog.records]
            assert len([text for text in warned if text.startswith("the redis server")]) == expected
            await store.close()
    finally:
        forgetful.close()


async def test_full_server(own_server):
    """A server without memory refuses the write as a whole, and says what to do."""
    store = RedisLightningStore(own_server.url())
    await store.enqueue_rollout("small")
    with own_server.client() as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailableError, match="maxmemory"):
        await store.enqueue_rollout("one too many")
    with own_server.client() as client:
        client.config_set("maxmemory", 0)
    assert [r.input for r in await store.query_rollouts()] == ["small"]
    await store.close()


async def test_busy_server_is_waited_for(own_server):
    """While somebody's script keeps the server busy, calls wait instead of failing."""
    store = RedisLightningStore(own_server.url())
    await store.enqueue_rollout(1)
    with own_server.client() as client:
        client.config_set("busy-reply-threshold", 1)
    loop = "local t = redis.call('TIME')[1] + 1; while redis.call('TIME')[1] + 0 <= t do end"

    def block():
        with own_server.client() as client:
            client.eval(loop, 0)

    blocking = asyncio.create_task(asyncio.to_thread(block))
    await asyncio.sleep(0.1)
    await store.enqueue_rollout(2)
    await blocking
    assert [r.input for r in await store.query_rollouts()] == [1, 2]
    await store.close()


async def test_command_that_is_refused(server):
    """A user who may not write is told what the server says."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read")
    store = RedisLightningStore(f"unix://reader:secret@{server.socket}")
    with pytest.raises(ConfigurationError, match="may not do"):
        await store.enqueue_rollout(1)
    await store.close()


async def test_wrong_password(own_server):
    """A login that fails is an error of the configuration, and not tried for long."""
    with own_server.client() as client:
        client.config_set("requirepass", "right")
    path = own_server.socket
    for wrong in (f"unix://{path}", f"unix://:wrong@{path}"):
        store = RedisLightningStore(wrong)
        with pytest.raises(ConfigurationError, match="login"):
            await store.enqueue_rollout(1)
        await store.close()
    store = RedisLightningStore(f"unix://{path}", client_kwargs={"password": "right"})
    await store.enqueue_rollout(1)
    await store.close()


@pytest.mark.parametrize("address", ["http://h", "localhost:6379", "redis://h/db?socket_timeout=x"])
def test_foreign_urls_are_refused(address):
    """What is no Redis URL is refused when the store is made."""
    with pytest.raises(ConfigurationError):
        RedisLightningStore(address)


@pytest.mark.parametrize("prefix", ["", "a{b", "}"])
def test_impossible_prefixes_are_refused(prefix):
    """A prefix that would break the braces around it is refused."""
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisLightningStore(prefix=prefix)


async def test_urls_by_scheme(server):
    """valkey, redis and unix name the same kind of store; tls has its own scheme."""
    for address in ("valkey://h:1/2", "valkeys://h", "redis://h", "rediss://h:1?prefix=x"):
        store = open_store(address)
        assert isinstance(store, RedisLightningStore)
        await store.close()
    store = open_store(f"valkey+unix://{server.socket}?db=3&prefix=mine")
    await store.enqueue_rollout(1)
    assert store.prefix == "mine"
    with Redis(unix_socket_path=server.socket, db=3) as client:
        assert client.exists("{mine}:rollouts")
    await store.close()


def test_missing_library_names_the_extra(monkeypatch):
    """Without redis installed, the error says how to install it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "redis" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"agentlightning\[redis\]"):
        RedisLightningStore()


async def test_closed_store_says_so(url):
    """Calls after close, and pickling, are refused with advice."""
    store = RedisLightningStore(url)
    with pytest.raises(StoreError, match="LightningStoreServer"):
        pickle.dumps(store)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.enqueue_rollout(1)


def test_capabilities_and_imports():
    """Threads may share the store, and its module loads no client library by itself."""
    store = RedisLightningStore()
    assert store.capabilities["thread_safe"] is True
    asyncio.run(store.close())
    code = (
        "import sys, agentlightning.store.redis;"
        "assert not {'redis', 'sqlalchemy'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
