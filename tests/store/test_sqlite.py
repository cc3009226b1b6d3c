"""The store in a SQLite file: conformance, durability, sharing, refusals."""

import asyncio
import pickle
import sqlite3
import subprocess
import sys
import threading

import pytest
import pytest_asyncio

from agentlightning.errors import ConfigurationError, InvalidRequestError, StoreError
from agentlightning.store.sqlite import SQLiteLightningStore, SQLiteStore
from agentlightning.types import PromptTemplate, RolloutConfig
from tests.conformance.store_conformance import StoreConformance
from tests.conformance.store_spans import make_span


@pytest_asyncio.fixture
async def store(tmp_path):
    store = SQLiteLightningStore(tmp_path / "store.db")
    yield store
    await store.close()


class TestSQLiteConformance(StoreConformance):
    @pytest_asyncio.fixture
    async def store(self, tmp_path):
        store = SQLiteLightningStore(tmp_path / "store.db")
        yield store
        await store.close()


async def test_everything_is_there_after_reopening(tmp_path):
    """A file that was closed and opened again holds all records, the queue and the events."""
    url = f"sqlite:///{tmp_path}/deep/er/store.db"
    store = SQLiteStore(url)
    await store.update_resources("v", {"p": PromptTemplate(template="1", engine="jinja")})
    await store.update_resources("v", {"p": PromptTemplate(template="2", engine="jinja")})
    queued = await store.enqueue_rollout({"q": 1}, metadata={"m": 1})
    done = await store.start_rollout(2, worker_id="w")
    span = await store.add_span(make_span(done))
    await store.finish_rollout(done.rollout_id, reward=1.0)
    before = list(await store.query_rollouts())
    await store.close()
    await store.close()

    store = SQLiteStore(url)
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


WRITER = """
import asyncio, sys
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.conformance.store_spans import make_span
from agentlightning.types import RolloutConfig

async def main():
    store = SQLiteLightningStore(sys.argv[1])
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


async def test_killed_process_loses_nothing_acknowledged(tmp_path):
    """After kill -9 in the middle of writing all that was acknowledged is there, and no rollout
    is lost between queue and attempt.
    """
    path = tmp_path / "store.db"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().split() for _ in range(60)]
    process.kill()
    acknowledged += [line.split() for line in process.stdout.read().splitlines()]
    process.stdout.close()
    process.wait()

    store = SQLiteLightningStore(path)
    for rollout_id, attempt_id, status in (line for line in acknowledged if len(line) == 3):
        attempts = {a.attempt_id: a for a in await store.query_attempts(rollout_id)}
        assert attempts[attempt_id].status == status
        assert attempts[attempt_id].end_time is not None
        assert len(await store.query_spans(rollout_id, attempt_id)) == 3
    waiting = await store.query_rollouts(status_in=["queuing", "requeuing"])
    claimed = await store.dequeue_many_rollouts(limit=100_000)
    assert {r.rollout_id for r in waiting} == {c.rollout_id for c in claimed}
    await store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


async def test_attempt_lost_while_closed_is_found(tmp_path):
    """An attempt whose process died runs out while the file is closed, and is taken away."""
    path = tmp_path / "store.db"
    store = SQLiteLightningStore(path)
    config = RolloutConfig(
        unresponsive_seconds=0.05, max_attempts=2, retry_condition=["unresponsive"]
    )
    started = await store.start_rollout(1, config=config)
    await store.close()
    store = SQLiteLightningStore(path)
    claimed = await store.dequeue_rollout(wait_seconds=30)
    assert claimed is not None
    assert claimed.rollout_id == started.rollout_id
    await store.close()


def test_two_event_loops_in_two_threads(tmp_path):
    """One store serves two event loops at once: one waits for what the other enqueues."""
    store = SQLiteLightningStore(tmp_path / "store.db")
    count = 25

    async def work():
        for _ in range(count):
            claimed = await store.dequeue_rollout("w", wait_seconds=60)
            assert claimed is not None
            await store.add_span(make_span(claimed))
            await store.update_attempt(claimed.rollout_id, "latest", status="succeeded")

    async def lead():
        ids = [(await store.enqueue_rollout(i)).rollout_id for i in range(count)]
        return await store.wait_for_rollouts(rollout_ids=ids, timeout=60)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    ended = asyncio.run(lead())
    thread.join(60)
    assert [r.status for r in ended] == ["succeeded"] * count
    asyncio.run(store.close())


async def test_cancelled_claims_lose_no_rollout(store):
    """However a claim is cancelled, its rollout is claimed by the caller or is still queued."""
    total = 40
    for i in range(total):
        await store.enqueue_rollout(i)
    kept = []
    for turn in range(120):
        task = asyncio.create_task(store.dequeue_rollout())
        for _ in range(turn % 6):
            await asyncio.sleep(0.0002 * (turn % 4))
        task.cancel()
        try:
            kept.append(await task)
        except asyncio.CancelledError:
            continue
    rest = await store.dequeue_many_rollouts(limit=total)
    claimed = [c.rollout_id for c in (*kept, *rest) if c is not None]
    assert len(claimed) == len(set(claimed)) == total


async def test_failed_step_leaves_nothing(store):
    """An atomic block that raises is undone as a whole."""
    rollout = await store.enqueue_rollout(1)
    with pytest.raises(RuntimeError, match="stop"):
        async with store.collections.atomic(mode="rw", labels=["rollouts"]) as rows:
            await rows.rollouts.delete([rollout])
            await rows.rollout_queue.dequeue()
            assert await rows.rollouts.size() == 0
            raise RuntimeError("stop")
    assert await store.collections.rollouts.size() == 1
    assert (await store.dequeue_rollout()).rollout_id == rollout.rollout_id


async def test_block_keeps_others_out(store):
    """While an atomic block is open, other writers wait, and then go on."""
    order = []

    async def other():
        await store.enqueue_rollout("other")
        order.append("other")

    async with store.collections.atomic(mode="rw") as rows:
        task = asyncio.create_task(other())
        await asyncio.sleep(0.05)
        await rows.rollout_queue.enqueue(["ro-x"])
        order.append("block")
    await task
    assert order == ["block", "other"]
    assert (await store.collections.rollout_queue.peek(2))[0] == "ro-x"


async def test_value_without_json_form_is_refused(store):
    """An input that is no JSON is refused with a clear error, and nothing is stored."""
    with pytest.raises(InvalidRequestError, match="JSON"):
        await store.enqueue_rollout({"f": object()})
    assert (await store.statistics())["total_rollouts"] == 0


async def test_newer_layout_is_refused(tmp_path):
    """A file of a later version is not touched, and the error names both versions."""
    path = tmp_path / "store.db"
    await SQLiteLightningStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE agentlightning_layout SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigurationError, match="99"):
        SQLiteLightningStore(path)


def test_foreign_files_are_refused(tmp_path):
    """A file of another program, a file that is no database, and odd URLs are refused."""
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    text = tmp_path / "text.db"
    text.write_text("not a database, but long enough to look at\n" * 40)
    for database in (foreign, text, "sqlite://", ":memory:", "sqlite:///", "mysql://h/d"):
        with pytest.raises(ConfigurationError):
            SQLiteLightningStore(database)


async def test_closed_store_says_so(tmp_path):
    """Calls after close, and pickling, are refused with advice."""
    store = SQLiteLightningStore(tmp_path / "store.db")
    with pytest.raises(StoreError, match="LightningStoreServer"):
        pickle.dumps(store)
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.enqueue_rollout(1)


def test_capabilities(tmp_path):
    """A SQLite store may be shared by threads, not by processes."""
    store = SQLiteLightningStore(tmp_path / "store.db")
    assert store.capabilities["thread_safe"] is True
    assert store.capabilities["zero_copy"] is False
    asyncio.run(store.close())
