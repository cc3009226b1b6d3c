"""Collections in SQL, on SQLite: the common rules, the threads, the journal's limits."""

import asyncio
import gc
import threading

import pytest
import pytest_asyncio

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning.errors import ConflictError, StoreError, StoreUnavailableError
from agentlightning.store.collections.sql import sequence
from agentlightning.store.collections.sql.condition import sql_filter, sql_order
from agentlightning.store.collections.sql.schema import attempts, spans
from agentlightning.store.collections.sql.thread import DatabaseThread
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import Attempt, StoreEvent
from tests.store.collections.model import CollectionConformance, attempt


@pytest_asyncio.fixture
async def store(tmp_path):
    store = SQLiteLightningStore(tmp_path / "a.db")
    yield store
    await store.close()


@pytest.fixture
def rows(store):
    return store.collections


class TestSqlCollections(CollectionConformance):
    pass


async def test_journal_prunes(rows, monkeypatch):
    """Old events are dropped in blocks, and asking for them is an error."""
    monkeypatch.setattr(sequence, "KEPT_EVENTS", 10)
    monkeypatch.setattr(sequence, "_PRUNE_EVERY", 20)
    for _ in range(5):
        events = [StoreEvent(seq=0, kind="worker_updated", time=0.0) for _ in range(9)]
        await rows.events.append(events)
    assert await rows.events.last_seq() == 45
    assert [e.seq for e in await rows.events.read(43)] == [44, 45]
    assert len(await rows.events.read(35)) == 10
    with pytest.raises(ConflictError, match="no longer kept"):
        await rows.events.read(3)


async def test_caught_conflict_keeps_the_step_alive(rows):
    """A step may catch a duplicate and go on; what it wrote before and after is committed."""

    async def step(inner):
        await inner.attempts.insert([attempt(name="a")])
        with pytest.raises(ValueError, match="there already"):
            await inner.attempts.insert([attempt(name="b"), attempt(name="a")])
        await inner.attempts.insert([attempt(name="c")])

    await rows.execute(step)
    assert [a.attempt_id for a in await rows.attempts.query()] == ["a", "c"]


async def test_reads_see_committed_writes(rows):
    """A read that follows a write sees it, on whichever connection it runs."""
    for number in range(20):
        await rows.span_sequence_ids.set("k", number)
        assert await rows.span_sequence_ids.get("k") == number


def test_only_python_can_answer_some_filters():
    """What SQL would compare differently is left to Python."""
    assert sql_filter(attempts, {"metadata": {"contains": "k"}}) is None
    assert sql_filter(attempts, {"sequence_id": {"exact": "1"}}) is None
    assert sql_filter(attempts, {"payload": {"contains": "k"}}) is None
    assert sql_filter(attempts, {"rollout_id": {"within": [str(n) for n in range(40_000)]}}) is None
    assert sql_filter(attempts, {"_must": {"metadata": {"contains": "k"}}}) is None
    assert sql_filter(attempts, {"status": {"within": ["failed"]}}) is not None


def test_plain_columns_are_sorted_by_their_index():
    """A column that is never NULL is sorted as it is, others by their rank for NULL."""
    assert "coalesce" not in str(
        sql_order(attempts, Attempt, {"name": "sequence_id", "order": "asc"})[0]
    )
    assert "coalesce" in str(sql_order(attempts, Attempt, {"name": "end_time", "order": "asc"})[0])


async def test_claims_use_an_index(rows):
    """The hot questions are answered from an index, not by a scan."""
    queries = {
        str(attempts.select().where(attempts.c.rollout_id == "r").order_by(attempts.c.sequence_id)),
        str(spans.select().where(spans.c.rollout_id == "r").order_by(spans.c.sequence_id)),
    }

    def plans(connection):
        return [
            str(
                connection.exec_driver_sql(
                    f"EXPLAIN QUERY PLAN {query}", {"rollout_id_1": "r"}
                ).all()
            )
            for query in queries
        ]

    for plan in await rows._run(plans, write=False):
        assert "USING INDEX" in plan
        assert "TEMP B-TREE" not in plan


async def test_unopenable_database_is_reported_to_each_caller():
    """When the connection cannot be opened, calls fail as retryable instead of hanging."""

    def connect():
        raise OSError("disk on fire")

    thread = DatabaseThread(connect, "agentlightning-test")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="disk on fire"):
            await thread.call(lambda connection, job: None)
    thread.close()
    with pytest.raises(StoreError, match="closed"):
        await thread.call(lambda connection, job: None)


async def test_cancellation_before_and_after_the_commit(store):
    """Work whose caller leaves is undone before the commit, and handed back after it."""
    thread = store.collections._writer

    async def leave(*, after_commit):
        started, go = threading.Event(), threading.Event()

        def work(connection, job):
            committed = after_commit and job.may_commit()
            started.set()
            go.wait(30)
            return committed or job.may_commit()

        task = asyncio.create_task(call(work))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        timer = threading.Timer(0.02, go.set)
        timer.start()
        result = await task
        timer.join()
        return result

    async def call(work):
        try:
            return await thread.call(work)
        except CommittedThenCancelledError as late:
            return f"committed {late.result}"
        except asyncio.CancelledError:
            return "undone"

    assert await leave(after_commit=False) == "undone"
    assert await leave(after_commit=True) == "committed True"


def test_store_that_nobody_closed_ends_its_threads(tmp_path):
    """Dropping the last reference to a store ends its threads."""
    store = SQLiteLightningStore(tmp_path / "a.db")
    asyncio.run(store.enqueue_rollout(1))
    threads = [store.collections._writer._thread, store.collections._reader._thread]
    del store
    # The watchdog's first scan may hold the store for another moment.
    for _ in range(3000):
        gc.collect()
        if not any(thread.is_alive() for thread in threads):
            break
        threads[0].join(0.01)
    assert not any(thread.is_alive() for thread in threads)


async def test_locked_database_is_retryable(store, monkeypatch):
    """A write that another process blocks for too long fails as retryable."""
    import sqlite3

    def shorten(connection):
        connection.exec_driver_sql("PRAGMA busy_timeout=50")

    await store.collections._run(shorten, write=True)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.enqueue_rollout(1)
    assert caught.value.retryable
    other.execute("ROLLBACK")
    other.close()
    await store.enqueue_rollout(1)


def test_work_of_a_closed_loop_is_still_done(tmp_path):
    """A loop that ends while its write is in line neither blocks nor breaks the others."""
    store = SQLiteLightningStore(tmp_path / "a.db")

    async def leave():
        task = asyncio.create_task(store.enqueue_rollout(1))
        await asyncio.sleep(0)
        return task

    for _ in range(5):
        asyncio.run(leave())
    asyncio.run(store.enqueue_rollout("last"))
    found = asyncio.run(store.query_rollouts(sort_by="start_time", sort_order="desc", limit=1))
    assert found[0].input == "last"
    asyncio.run(store.close())
    assert not [t for t in threading.enumerate() if t.name.startswith("agentlightning-")]
