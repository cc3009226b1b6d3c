"""The store in PostgreSQL: conformance, sharing between processes, restarts, refusals."""

import asyncio
import importlib.util
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import asyncpg
import pytest
import pytest_asyncio

from agentlightning._internal.clock import monotonic
from agentlightning.errors import (
    ConfigurationError,
    InvalidRequestError,
    MissingExtraError,
    StoreUnavailableError,
)
from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.sql import postgres_events, postgres_pool
from agentlightning.store.collections.sql.postgres_connection import PostgresConnection
from agentlightning.store.collections.sql.postgres_writer import PostgresWriter
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.record import replace
from agentlightning.store.url import open_store
from agentlightning.types import EnqueueRolloutRequest
from tests.conformance.store_conformance import StoreConformance
from tests.conformance.store_spans import make_span
from tests.store.collections.model import CollectionConformance
from tests.support.ports import free_port
from tests.support.postgres import PostgresProcess


@pytest.fixture(scope="module")
def server():
    process = PostgresProcess()
    yield process
    process.close()


@pytest.fixture
def url(server):
    return server.new_store()


@pytest_asyncio.fixture
async def store(url):
    store = PostgresLightningStore(url)
    yield store
    await store.close()


class TestPostgresConformance(StoreConformance):
    pass


class TestPostgresCollections(CollectionConformance):
    @pytest.fixture
    def rows(self, store):
        return store.collections


CLAIMER = """
import asyncio, sys
from agentlightning.store.postgres import PostgresLightningStore

async def main():
    store = PostgresLightningStore(sys.argv[1], pool_size=4)

    async def work(name):
        while (claimed := await store.dequeue_rollout(name)) is not None:
            await store.finish_rollout(claimed.rollout_id, claimed.attempt.attempt_id)
            print(claimed.rollout_id, flush=True)

    await asyncio.gather(*(work(f"{sys.argv[2]}-{n}") for n in range(4)))
    await store.close()

asyncio.run(main())
"""


async def test_no_rollout_is_claimed_twice(store, url):
    """Claims from several processes, each with several workers, share the queue exactly."""
    requests = [EnqueueRolloutRequest(input=n) for n in range(300)]
    rollouts = await store.enqueue_many_rollouts(requests)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, url, f"p{n}"], stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    claimed = set()
    count = 0
    for process in processes:
        output, _ = await asyncio.to_thread(process.communicate, timeout=100)
        assert process.returncode == 0
        claimed.update(output.split())
        count += len(output.split())
    assert claimed == {rollout.rollout_id for rollout in rollouts}
    assert count == len(claimed)
    for rollout in await store.query_rollouts():
        assert rollout.status == "succeeded"
        assert rollout.attempt.sequence_id == 1
    events = [event async for event in first_events(store, 300 * 5)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def first_events(store, count):
    events = store.subscribe(since=0)
    for _ in range(count):
        yield await anext(events)
    await events.aclose()


async def test_other_stores_are_heard_at_once(store, url):
    """Who waits for work or for an end in one store is woken by what another one does."""
    other = PostgresLightningStore(url)
    waiting = asyncio.create_task(store.dequeue_rollout("w", wait_seconds=60))
    await asyncio.sleep(0.5)
    began = monotonic()
    queued = await other.enqueue_rollout(1)
    claimed = await waiting
    assert claimed.rollout_id == queued.rollout_id
    ended = asyncio.create_task(other.wait_for_rollouts(rollout_ids=[queued.rollout_id]))
    await asyncio.sleep(0.5)
    await store.finish_rollout(queued.rollout_id)
    assert (await ended)[0].status == "succeeded"
    # Far below the ten seconds after which everybody looks by itself.
    assert monotonic() - began < 8
    await other.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_restart_of_the_server_is_survived(how):
    """Calls in flight while the server is stopped or crashes succeed afterwards, once each."""
    server = PostgresProcess()
    try:
        store = PostgresLightningStore(server.url(), pool_size=4)
        made = [(await store.enqueue_rollout(n, rollout_id=f"ro-{n}")) for n in range(3)]

        async def work(name):
            for n in range(25):
                made.append(await store.enqueue_rollout(n, rollout_id=f"ro-{name}-{n}"))
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(work(name)) for name in range(6)]
        waiting = asyncio.create_task(store.wait_for_rollouts(rollout_ids=["ro-0"]))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.stop, how)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        await asyncio.gather(*tasks)
        assert len(made) == 3 + 6 * 25
        found = await store.query_rollouts()
        assert {row.rollout_id for row in found} == {row.rollout_id for row in made}
        assert len(await store.dequeue_many_rollouts(limit=1000)) == len(made)
        events = [event async for event in first_events(store, 3 * len(made))]
        created = [event.rollout_id for event in events if event.kind == "rollout_created"]
        assert len(created) == len(set(created)) == len(made)
        assert (await store.statistics())["total_rollouts"] == len(made)
        await store.finish_rollout("ro-0")
        assert (await waiting)[0].status == "succeeded"
        await store.close()
    finally:
        server.close()


async def test_cancelled_claims_lose_no_rollout(store):
    """However a claim is cancelled, its rollout is claimed by the caller or is still queued."""
    total = 30
    for n in range(total):
        await store.enqueue_rollout(n)
    kept = []
    for turn in range(80):
        task = asyncio.create_task(store.dequeue_rollout())
        await asyncio.sleep(0.001 * (turn % 12))
        task.cancel()
        try:
            kept.append(await task)
        except asyncio.CancelledError:
            continue
    rest = await store.dequeue_many_rollouts(limit=total)
    claimed = [claim.rollout_id for claim in (*kept, *rest) if claim is not None]
    assert len(claimed) == len(set(claimed)) == total


def break_commits(monkeypatch, name, faults):
    """Have commits lose the line, before or after they reach the server; `faults` is used up."""
    original = getattr(PostgresConnection, name)

    def commit(self, *args):
        fault = None if self.in_transaction is (name != "commit") or not faults else faults.pop()
        result = None
        if fault != "before":
            result = original(self, *args)
        if fault is not None:
            raise ConnectionResetError("the line went dead")
        return result

    monkeypatch.setattr(PostgresConnection, name, commit)


async def test_commit_in_doubt_is_looked_into(store, monkeypatch):
    """A commit whose answer is lost is found to be done, or is done again, never twice."""
    for n in range(3):
        await store.enqueue_rollout(n)
    faults = ["after", "before"]
    break_commits(monkeypatch, "commit", faults)
    claims = [await store.dequeue_rollout() for _ in range(3)]
    assert not faults
    assert [claim.input for claim in claims] == [0, 1, 2]
    events = [event async for event in first_events(store, await store.last_event_seq())]
    started = [event.attempt_id for event in events if event.kind == "attempt_started"]
    assert started == [claim.attempt.attempt_id for claim in claims]


async def test_steps_about_one_rollout_come_after_one_another(store, url):
    """What several stores add to one rollout at once is numbered without a gap, nothing lost."""
    other = PostgresLightningStore(url)
    claimed = await store.start_rollout(1)
    ids = (claimed.rollout_id, claimed.attempt.attempt_id)
    stores = [store, other] * 10
    added = await asyncio.gather(
        *(each.add_span(make_span(claimed, f"s{n}")) for n, each in enumerate(stores)),
        *(each.update_attempt(*ids, metadata={"n": n}) for n, each in enumerate(stores)),
    )
    assert sorted(span.sequence_id for span in added[:20]) == list(range(1, 21))
    assert len(await store.query_spans(claimed.rollout_id)) == 20
    assert (await store.get_rollout_by_id(claimed.rollout_id)).attempt.status == "running"
    await other.close()


async def test_step_whose_rollout_changed_meanwhile_is_run_again(store, url, server):
    """What was read without a lock is looked at again before anything is written."""
    rollout_id = (await store.enqueue_rollout(1)).rollout_id
    schema = url.rpartition("=")[2]
    seen = []

    async def step(rows):
        rollout = (await rows.find_rollouts([rollout_id]))[rollout_id]
        seen.append(rollout.mode)
        if len(seen) == 1:
            with ThreadPoolExecutor() as pool:
                pool.submit(server.run, f"UPDATE {schema}.rollouts SET mode = 'val'").result(60)
        await rows.apply(Changes(rollouts={rollout_id: replace(rollout, resources_id="x")}))

    await store.collections.execute(step)
    assert seen == [None, "val"]
    found = await store.get_rollout_by_id(rollout_id)
    assert (found.mode, found.resources_id) == ("val", "x")


async def test_writing_at_once_in_doubt_is_looked_into(store, monkeypatch):
    """So is a step that is written and committed by one statement; its events have numbers."""
    await store.enqueue_rollout("first")
    faults = ["after", "before"]
    break_commits(monkeypatch, "fetch_finally", faults)
    events = store.subscribe(since=1)
    await store.enqueue_rollout("before")
    await store.enqueue_rollout("after")
    assert not faults
    assert [row.input for row in await store.query_rollouts()] == ["first", "before", "after"]
    assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
    await events.aclose()


async def test_what_a_lost_connection_left_running_is_not_done_twice(store, server, monkeypatch):
    """A statement that outlives its connection is ended before the step is run again."""
    lines = []
    connect = asyncpg.connect

    async def remembered(**arguments):
        lines.append(await connect(**arguments))
        return lines[-1]

    async def cut():
        next(line for line in lines if line.get_server_pid() == lost).terminate()

    monkeypatch.setattr(asyncpg, "connect", remembered)
    await store.enqueue_rollout("first")
    blocker = await connect(server.url())
    await blocker.execute(f"BEGIN; LOCK TABLE {store.collections._schema}.rollouts IN SHARE MODE")
    enqueued = asyncio.create_task(store.enqueue_rollout("second"))

    async def waiting():
        table = f"'{store.collections._schema}.rollouts'::regclass"
        query = f"SELECT pid FROM pg_locks WHERE NOT granted AND relation = {table}"
        return {pid for (pid,) in await blocker.fetch(query)}

    while not (found := await waiting()):
        await asyncio.sleep(0.01)
    (lost,) = found
    # The server does not notice that while it waits for the lock.
    await store.collections._io.run(cut)
    while not await waiting() - {lost}:
        await asyncio.sleep(0.01)
    await blocker.execute("COMMIT")
    await blocker.close()
    await enqueued
    assert [row.input for row in await store.query_rollouts()] == ["first", "second"]


async def test_process_that_does_not_end_is_not_waited_for_forever(url, monkeypatch):
    """Where nobody can tell whether a step was done, its caller is told so."""
    store = PostgresLightningStore(url, wait_seconds=0.2)
    await store.enqueue_rollout("first")
    endless = "SELECT 1 WHERE $1::int IS NOT NULL AND $2::text IS NOT NULL"
    monkeypatch.setattr(postgres_events, "_END", endless)
    break_commits(monkeypatch, "fetch_finally", ["after"])
    with pytest.raises(StoreUnavailableError, match="may or may not"):
        await asyncio.wait_for(store.enqueue_rollout("second"), 30)
    await store.close()


async def test_requeued_rollout_is_in_line_though_its_stale_place_is_cleared(
    store, url, monkeypatch
):
    """Who queues a rollout is not misled by a place in line that somebody clears meanwhile."""
    rollout_id = (await store.enqueue_rollout(1)).rollout_id
    await store.start_attempt(rollout_id)
    other = PostgresLightningStore(url)
    claims = []
    write = PostgresWriter.write

    def slowly(self, changes):
        if changes.rollouts and not claims:
            claims.append(asyncio.run_coroutine_threadsafe(other.dequeue_rollout(), loop))
            with suppress(TimeoutError):
                # It comes to its end only where no lock keeps it from that.
                claims[0].result(1)
        write(self, changes)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(PostgresWriter, "write", slowly)
    await store.update_rollout(rollout_id, status="requeuing")
    claimed = await asyncio.wrap_future(claims[0]) or await store.dequeue_rollout()
    assert claimed is not None
    await other.close()


async def test_what_a_worker_does_is_never_put_together_of_two_claims(store, url, monkeypatch):
    """Of two claims of one worker at once the record shows one, with its rollout and attempt."""
    first = await store.start_rollout(1, worker_id="w")
    second = await store.start_rollout(2)
    other = PostgresLightningStore(url)
    write = PostgresWriter.write
    claims = []

    def later(self, changes):
        if not claims:
            claims.append(other.start_attempt(second.rollout_id, "w"))
            asyncio.run_coroutine_threadsafe(claims[0], loop).result(60)
        write(self, changes)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(PostgresWriter, "write", later)
    await store.start_attempt(first.rollout_id, "w")
    worker = await store.get_worker_by_id("w")
    attempt = await store.get_latest_attempt(worker.current_rollout_id)
    assert worker.current_attempt_id == attempt.attempt_id
    await other.close()


async def test_pool_lends_no_connection_in_an_unknown_state(store, monkeypatch):
    """Who is cancelled while a failed step is undone leaves no open transaction to the next."""
    await store.enqueue_rollout(1)
    pool = store.collections._pool
    undoing = asyncio.Event()

    async def endless(_):
        undoing.set()
        await asyncio.sleep(3600)

    async def fail():
        async with pool.connection() as connection:
            await connection.execute("BEGIN")
            raise RuntimeError("stop")

    async def state():
        task = asyncio.create_task(fail())
        with monkeypatch.context() as patch:
            patch.setattr(postgres_pool, "_tidy", endless)
            await undoing.wait()
            task.cancel()
            await asyncio.wait({task})
        async with pool.connection() as connection:
            return connection.is_in_transaction()

    assert await store.collections._io.run(state) is False


async def test_block_is_one_transaction(store):
    """An atomic block is committed as a whole, or undone as a whole."""
    with pytest.raises(RuntimeError, match="stop"):
        async with store.collections.atomic() as rows:
            await rows.rollout_queue.enqueue(["x"])
            assert await rows.rollout_queue.size() == 1
            raise RuntimeError("stop")
    assert await store.collections.rollout_queue.size() == 0
    async with store.collections.atomic() as rows:
        await rows.rollout_queue.enqueue(["y"])
    assert await store.collections.rollout_queue.size() == 1


async def test_value_that_the_database_cannot_hold_is_refused(store):
    """A NUL in a name is refused with a clear error; in a free value it is kept."""
    started = await store.start_rollout({"nul": "a\0b"})
    assert (await store.get_rollout_by_id(started.rollout_id)).input == {"nul": "a\0b"}
    with pytest.raises(InvalidRequestError, match="NUL"):
        await store.add_span(make_span(started, name="a\0b"))


async def test_unreachable_server_is_named():
    """When nobody answers, the error says where, and that it is worth another try."""
    port = free_port()
    store = PostgresLightningStore(f"postgresql://u@127.0.0.1:{port}/d", wait_seconds=0.2)
    with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1 port {port}") as caught:
        await store.enqueue_rollout(1)
    assert caught.value.retryable
    await store.close()


async def test_missing_database_is_refused(server):
    """A database that does not exist is a mistake in the URL, not an outage."""
    store = PostgresLightningStore(server.url("nowhere"))
    with pytest.raises(ConfigurationError, match="nowhere"):
        await store.enqueue_rollout(1)
    await store.close()


async def test_newer_layout_is_refused(server, url, store):
    """Tables of a later version are not touched, and the error names both versions."""
    await store.enqueue_rollout(1)
    schema = url.rpartition("=")[2]
    await asyncio.to_thread(server.run, f"UPDATE {schema}.agentlightning_layout SET version = 99")
    newer = PostgresLightningStore(url)
    with pytest.raises(ConfigurationError, match="layout 99"):
        await newer.query_rollouts()
    await newer.close()


async def test_layout_2_is_migrated_on_opening(server, url, store):
    """Tables of the layout before are brought to the present one with all that is in them."""
    rollout = await store.enqueue_rollout("kept")
    await store.close()
    schema = url.rpartition("=")[2]
    for change in (
        f"ALTER TABLE {schema}.events DROP COLUMN counts CASCADE",
        f"UPDATE {schema}.agentlightning_layout SET version = 2",
    ):
        await asyncio.to_thread(server.run, change)
    opened = PostgresLightningStore(url)
    claim = await opened.dequeue_rollout()
    assert claim is not None
    assert (claim.rollout_id, claim.input) == (rollout.rollout_id, "kept")
    assert (await opened.statistics())["total_rollouts"] == 1
    await opened.close()


async def test_several_open_at_once(url):
    """Stores that open an empty database at the same time create its tables once."""
    stores = [PostgresLightningStore(url, pool_size=1) for _ in range(5)]
    await asyncio.gather(*(store.enqueue_rollout(1) for store in stores))
    assert (await stores[0].statistics())["total_rollouts"] == 5
    await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d?pool_size=0",
        "postgresql://h/d?pool_size=many",
        "postgresql://h/d?schema=a-b",
        "mysql://h/d",
        "postgres:h",
        "postgresql://h:x/d",
    ],
)
def test_odd_urls_are_refused(url):
    """What is no URL of PostgreSQL, or names an impossible pool, is refused at once."""
    with pytest.raises(ConfigurationError):
        PostgresLightningStore(url)


async def test_opened_by_url(url):
    """`open_store` knows both names of the scheme, and the pool's size in the URL."""
    for scheme in ("postgres", "postgresql"):
        store = open_store(f"{scheme}{url.removeprefix('postgresql')}&pool_size=2")
        assert isinstance(store, PostgresLightningStore)
        await store.enqueue_rollout(1)
        await store.close()
    assert store.capabilities["thread_safe"]


def test_missing_driver_names_the_extra(monkeypatch):
    """Without asyncpg the error says which extra to install."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "asyncpg" else find(name)
    )
    with pytest.raises(MissingExtraError, match=r"agentlightning\[postgres\]"):
        PostgresLightningStore("postgresql://h/d")


async def test_schemas_share_nothing(server):
    """Stores in two schemas of one database know nothing of each other."""
    one, two = (PostgresLightningStore(server.new_store()) for _ in range(2))
    await one.enqueue_rollout(1)
    assert await two.dequeue_rollout() is None
    assert (await two.statistics())["total_rollouts"] == 0
    await one.close()
    await two.close()
