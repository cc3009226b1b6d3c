"""Collections in SQL, on SQLite: the common rules, groups of steps, threads, the journal."""

import asyncio
import gc
import sqlite3
import threading

import pytest
import pytest_asyncio

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.clock import monotonic
from agentlightning.errors import ConflictError, NotFoundError, StoreError, StoreUnavailableError
from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.sql import sequence, sqlite_log, table
from agentlightning.store.collections.sql.condition import sql_filter, sql_order
from agentlightning.store.collections.sql.job import JobThread
from agentlightning.store.collections.sql.schema import attempts
from agentlightning.store.record import replace
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import Attempt, EnqueueRolloutRequest, PromptTemplate, StoreEvent
from tests.conformance.store_spans import make_span
from tests.store.collections.model import CollectionConformance, attempt
from tests.support.threads import new_threads


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
    monkeypatch.setattr(sequence, "PRUNE_EVERY", 20)
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
    assert sql_filter(attempts, {"body": {"contains": "k"}}) is None
    assert sql_filter(attempts, {"rollout_id": {"within": [str(n) for n in range(40_000)]}}) is None
    assert sql_filter(attempts, {"_must": {"metadata": {"contains": "k"}}}) is None
    assert sql_filter(attempts, {"status": {"within": ["failed"]}}) is not None


def test_plain_columns_are_sorted_by_their_index():
    """A column that is never NULL is sorted as it is, a time too, others by their rank for NULL."""
    for name, ranked in (("sequence_id", False), ("end_time", False), ("worker_id", True)):
        (term, _) = sql_order(attempts, Attempt, {"name": name, "order": "asc"})
        assert ("coalesce" in str(term)) is ranked


async def test_hot_questions_use_an_index(store):
    """The questions of every claim and every span are answered from an index, not by a scan."""
    seen = []
    connection = store.collections._engine.connection
    connection._raw.set_trace_callback(seen.append)
    claimed = await store.start_rollout(1, worker_id="w")
    await store.add_span(make_span(claimed))
    await store.add_span(make_span(claimed))
    store.collections._engine.session.forget()
    await store.finish_rollout(claimed.rollout_id)
    others = [await store.start_rollout(n) for n in range(3)]
    await store.add_many_spans([make_span(o, attributes={"a": "x" * 3000}) for o in others])
    store.collections._engine.session.forget()
    await store.wait_for_rollouts(rollout_ids=[o.rollout_id for o in others], timeout=0)
    await store.query_rollouts(sort_by="start_time", limit=2, offset=1)
    await store.query_spans(others[0].rollout_id, limit=1)
    await store.scan()
    connection._raw.set_trace_callback(None)
    few = {"SCAN rollout_queue", "SCAN totals"}
    questions = [text for text in seen if text.startswith(("SELECT", "UPDATE", "DELETE"))]
    assert any("json_each" in text for text in questions)
    for text in questions:
        for *_, plan in connection.run(f"EXPLAIN QUERY PLAN {text}"):
            scan = plan.startswith("SCAN") and "INDEX" not in plan
            assert not scan or "VIRTUAL TABLE" in plan or plan in few, text


async def test_failing_server_of_jobs_is_reported_to_each_caller():
    """When the thread's work cannot be done at all, calls fail instead of hanging."""

    def serve(jobs):
        raise OSError("disk on fire")

    thread = JobThread(serve, "agentlightning-test")
    for _ in range(2):
        with pytest.raises(OSError, match="disk on fire"):
            await thread.submit(None).outcome()
    thread.close()
    with pytest.raises(StoreError, match="closed"):
        thread.submit(None)


async def test_cancellation_before_and_after_the_commit():
    """Work whose caller leaves is undone before the commit, and handed back after it."""

    async def leave(*, after_commit):
        started, go = threading.Event(), threading.Event()

        def serve(jobs):
            (job,) = jobs
            committed = after_commit and job.may_commit()
            started.set()
            go.wait(30)
            job.finish(committed or job.may_commit())

        thread = JobThread(serve, "agentlightning-test")
        task = asyncio.create_task(call(thread))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        timer = threading.Timer(0.02, go.set)
        timer.start()
        result = await task
        timer.join()
        thread.close()
        return result

    async def call(thread):
        try:
            return await thread.submit(None).outcome()
        except CommittedThenCancelledError as late:
            return f"committed {late.result}"
        except asyncio.CancelledError:
            return "undone"

    assert await leave(after_commit=False) == "undone"
    assert await leave(after_commit=True) == "committed True"


async def test_steps_of_one_moment_are_one_commit(store):
    """What several tasks ask for at once is committed together, and each gets its own answer."""
    commits = []
    connection = store.collections._engine.connection
    connection._raw.set_trace_callback(lambda text: text == "COMMIT" and commits.append(text))
    calls = [store.enqueue_rollout(n) for n in range(20)]
    calls.append(store.finish_rollout("unknown"))
    *rollouts, error = await asyncio.gather(*calls, return_exceptions=True)
    assert [rollout.input for rollout in rollouts] == list(range(20))
    assert isinstance(error, NotFoundError)
    assert len(commits) < 5
    assert len(await store.query_rollouts()) == 20


async def test_step_that_fails_while_writing_harms_no_other(rows):
    """A step that fails half-way takes nothing of its group with it, and leaves nothing."""

    async def good(inner):
        await inner.rollout_queue.enqueue(["good"])

    async def bad(inner):
        await inner.rollout_queue.enqueue(["bad"])
        raise RuntimeError("half-way")

    results = await asyncio.gather(
        *(rows.execute(step) for step in (good, good, bad, good)), return_exceptions=True
    )
    assert [type(result) for result in results] == [
        type(None),
        type(None),
        RuntimeError,
        type(None),
    ]
    assert list(await rows.rollout_queue.peek(9)) == ["good"] * 3


async def test_cancelled_member_of_a_group_is_left_out(rows):
    """A task that is cancelled before its group runs has changed nothing."""

    async def step(inner):
        await inner.rollout_queue.enqueue(["x"])

    tasks = [asyncio.create_task(rows.execute(step)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, BaseException) for result in results] == [False, False, True, False]
    assert await rows.rollout_queue.size() == 3


async def test_lone_caller_lets_others_go_on(store):
    """A task that calls the store without a pause does not keep the event loop to itself."""
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count())
    await asyncio.sleep(0)
    for n in range(100):
        await store.enqueue_rollout(n)
    counter.cancel()
    assert turns >= 5


async def test_what_others_wrote_is_seen(tmp_path):
    """What a connection remembers is forgotten when another one has written."""
    ours, theirs = (SQLiteLightningStore(tmp_path / "a.db") for _ in range(2))
    started = await ours.start_rollout(1, worker_id="w")
    await theirs.finish_rollout(started.rollout_id)
    await theirs.add_resources({"p": PromptTemplate(template="1", engine="jinja")})
    assert (await ours.get_rollout_by_id(started.rollout_id)).status == "succeeded"
    assert (await ours.get_worker_by_id("w")).status == "idle"
    assert (await ours.enqueue_rollout(2)).resources_id is not None
    await ours.close()
    await theirs.close()


async def test_rolled_back_step_is_forgotten(store):
    """What a failed step had read and written is not remembered."""
    started = await store.start_rollout(1)

    async def step(rows):
        changed = replace(started.attempt, status="failed")
        await rows.apply(Changes(attempts={(started.rollout_id, changed.attempt_id): changed}))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        await store.collections.execute(step)
    assert (await store.get_latest_attempt(started.rollout_id)).status == "preparing"


def test_store_that_nobody_closed_ends_its_threads(tmp_path):
    """Dropping the last reference to a store ends its threads."""
    with new_threads() as started:
        store = SQLiteLightningStore(tmp_path / "a.db", synchronous="full")
        asyncio.run(store.enqueue_rollout(1))
        threads = started("agentlightning-writer")
    assert threads
    del store
    # The watchdog's first scan may hold the store for another moment.
    for _ in range(3000):
        gc.collect()
        if not any(thread.is_alive() for thread in threads):
            break
        threads[0].join(0.01)
    assert not any(thread.is_alive() for thread in threads)


async def test_locked_database_is_retryable(store):
    """A write that another process blocks waits without blocking the loop, then is retryable."""
    store.collections._engine.busy_seconds = 0.1
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.enqueue_rollout(1))
    await asyncio.sleep(0)
    assert await store.query_rollouts() is not None
    with pytest.raises(StoreUnavailableError) as caught:
        await waiting
    assert caught.value.retryable
    store.collections._engine.busy_seconds = 30.0
    waiting = asyncio.create_task(store.enqueue_rollout(2))
    await asyncio.sleep(0.02)
    other.execute("ROLLBACK")
    other.close()
    await waiting
    assert [rollout.input for rollout in await store.query_rollouts()] == [2]


async def test_log_is_written_back_and_bounded(tmp_path, monkeypatch):
    """The write-ahead log is written back in a thread, and begins anew when it grows too large."""
    monkeypatch.setattr(sqlite_log, "_WRITE_BACK", 200_000)
    monkeypatch.setattr(sqlite_log, "_MOST", 400_000)
    store = SQLiteLightningStore(tmp_path / "a.db")
    for _ in range(100):
        await store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input="x" * 500) for _ in range(40)]
        )
    log = tmp_path / "a.db-wal"
    end = monotonic() + 30
    while log.stat().st_size >= 1_600_000 and monotonic() < end:
        await store.enqueue_rollout("one more")
        await asyncio.sleep(0.005)
    assert log.stat().st_size < 1_600_000
    assert (tmp_path / "a.db").stat().st_size > 1_000_000
    assert (await store.statistics())["total_rollouts"] >= 4000
    await store.close()


async def test_synchronous_full_waits_for_the_disk(tmp_path):
    """With `synchronous=full` every commit is synchronised, in a thread that may wait."""
    with new_threads() as started:
        store = SQLiteLightningStore(f"sqlite:///{tmp_path}/a.db?synchronous=full")
        rollouts = await asyncio.gather(*(store.enqueue_rollout(n) for n in range(10)))
        assert started("agentlightning-writer")
    assert len({rollout.rollout_id for rollout in rollouts}) == 10
    assert store.collections._engine.connection.run("PRAGMA synchronous") == [(2,)]
    await store.close()


async def test_totals_are_gathered(store, monkeypatch):
    """What is counted with events and what is gathered from them already add up, in any process."""
    monkeypatch.setattr(sequence, "GATHER_EVERY", 7)
    for number in range(20):
        rollout = await store.start_rollout(number)
        if number % 2:
            await store.finish_rollout(rollout.rollout_id)
        assert sum((await store.statistics())["rollouts_by_status"].values()) == number + 1
    raw = sqlite3.connect(store.path)
    counted = dict(raw.execute("SELECT name, value FROM totals"))
    last = raw.execute("SELECT max(seq) FROM events").fetchone()[0]
    raw.close()
    assert last - 7 <= counted["events"] <= last
    other = SQLiteLightningStore(store.path)
    assert (await other.statistics())["rollouts_by_status"] == {"preparing": 10, "succeeded": 10}
    assert (await other.query_rollouts(status_in=["succeeded"], limit=1)).total == 10
    await other.close()


async def test_parts_of_ids_are_found_whether_few_or_many(store, monkeypatch):
    """A part of an id finds the same rollouts and total whether it is narrowed to ids or not."""
    for number in range(12):
        await store.enqueue_rollout(number, rollout_id=f"ro-{number:02d}", mode="val")
    for few in (2000, 3, 0):
        monkeypatch.setattr(table, "_FEW", few)
        for part, logic, total in (
            ("ro-1", "and", 2),
            ("ro-1", "or", 12),
            ("ro", "and", 12),
            ("x", "and", 0),
            ("x", "or", 12),
        ):
            found = await store.query_rollouts(
                rollout_id_contains=part, mode_in=["val"], filter_logic=logic, limit=1
            )
            assert (found.total, len(found)) == (total, min(total, 1))


async def test_totals_stay_exact(store):
    """Numbers by status and mode follow every change, and tell the totals of listings."""
    requests = [EnqueueRolloutRequest(input=n, mode="train" if n % 2 else None) for n in range(10)]
    await store.enqueue_many_rollouts(requests)
    for claimed in await store.dequeue_many_rollouts(limit=4):
        await store.finish_rollout(claimed.rollout_id)
    for query, total in (
        ({}, 10),
        ({"status_in": ["succeeded"]}, 4),
        ({"status_in": ["succeeded", "queuing"], "mode_in": ["train"]}, 5),
        ({"status_in": ["succeeded"], "mode_in": ["train"], "filter_logic": "or"}, 7),
        ({"status_in": []}, 0),
    ):
        found = await store.query_rollouts(limit=1, **query)
        whole = await store.query_rollouts(**query)
        assert found.total == len(whole) == total
    table = store.collections.rollouts
    await table.delete(list(await table.query({"status": {"exact": "succeeded"}})))
    assert await table.size() == 6
    await table.upsert([replace(row, mode="val") for row in await table.query()])
    assert (await store.query_rollouts(mode_in=["val"], limit=1)).total == 6


def test_work_of_a_closed_loop_is_still_done(tmp_path):
    """A loop that ends while its write is in line neither blocks nor breaks the others."""

    async def leave(store):
        task = asyncio.create_task(store.enqueue_rollout(1))
        await asyncio.sleep(0)
        return task

    with new_threads() as started:
        store = SQLiteLightningStore(tmp_path / "a.db")
        for _ in range(5):
            asyncio.run(leave(store))
        asyncio.run(store.enqueue_rollout("last"))
        found = asyncio.run(store.query_rollouts(sort_by="start_time", sort_order="desc", limit=1))
        assert found[0].input == "last"
        asyncio.run(store.close())
        assert not started("agentlightning-")
