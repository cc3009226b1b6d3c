"""Databases of older layouts: brought to the present one with everything that is in them."""

import asyncio
import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.store.check import check_store
from agentlightning.store.collections.sql.migration import MIGRATIONS, SCHEMA_VERSION
from agentlightning.store.sqlite import SQLiteLightningStore

DATA = Path(__file__).parent / "data"


def old_database(path: Path, version: int = 1) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript((DATA / f"layout_{version}.sql").read_text())
    connection.close()
    return path


def test_migrations_are_in_order():
    """Each migration leads to the version after the one before, the last to the present."""
    versions = [migration.version for migration in MIGRATIONS]
    assert versions == list(range(2, SCHEMA_VERSION + 1))


async def test_layout_1_comes_along_with_all_its_data(tmp_path):
    """A file of layout 1 is migrated on opening: records, queue, numbers, versions, events."""
    store = SQLiteLightningStore(old_database(tmp_path / "old.db"))
    first, second, third = await store.query_rollouts(sort_by="rollout_id")
    assert first.input == {"q": "first", "odd": [math.inf, 2**70, None]}
    assert (first.status, first.mode, first.metadata) == (
        "requeuing",
        "train",
        {"run": "r1", "n": 1},
    )
    assert first.config.max_attempts == 3
    assert first.config.retry_condition == ["failed"]
    assert (second.status, third.status) == ("succeeded", "queuing")
    assert first.attempt.metadata == {"why": "test"}
    assert first.attempt.worker_id == "worker-1"
    one, two = await store.query_spans("ro-1")
    assert one.attributes["ids"] == list(range(600))
    assert two.attributes["ids"] == [*range(600), 7, 8]
    assert two.attributes["prompt"] == "You are a helpful assistant. " * 60 + "more"
    assert two.parent_id == two.parent.span_id == "00000000000000aa"
    assert one.context.span_id == one.span_id
    assert (await store.get_resources_by_id("main@1")).resources["prompt"].template == "one"
    assert (await store.get_latest_resources()).resources["llm"].endpoint == "http://h/v1"
    assert (await store.get_worker_by_id("worker-2")).status == "idle"
    statistics = await store.statistics()
    assert statistics["total_rollouts"] == 3
    assert statistics["total_attempts"] == 2
    assert statistics["total_spans"] == 3
    assert (await store.query_rollouts(mode_in=["train"], limit=1)).total == 1
    events = store.subscribe(since=0)
    seqs = [(await anext(events)).seq for _ in range(5)]
    await events.aclose()
    assert seqs == [1, 2, 3, 4, 5]
    assert await store.get_next_span_sequence_id("ro-1", "any") == 3
    claimed = await store.dequeue_many_rollouts(limit=9)
    assert [rollout.rollout_id for rollout in claimed] == ["ro-3", "ro-1"]
    await store.close()
    # A second opening finds nothing left to do.
    store = SQLiteLightningStore(tmp_path / "old.db")
    assert len(await store.query_rollouts()) == 3
    await store.close()


async def test_layout_2_goes_on_counting(tmp_path):
    """A file of layout 2 is migrated on opening; its numbers and events go on from where they are."""
    store = SQLiteLightningStore(old_database(tmp_path / "old.db", 2))
    first, second, third = await store.query_rollouts(sort_by="rollout_id")
    assert (first.status, second.status, third.status) == ("succeeded", "preparing", "queuing")
    assert first.input == {"q": "first", "odd": [math.inf, 2**70, None]}
    assert [span.attributes["n"] for span in await store.query_spans("ro-1")] == [1, 2]
    before = await store.statistics()
    assert (before["total_rollouts"], before["total_attempts"], before["total_spans"]) == (3, 2, 2)
    assert before["rollouts_by_status"] == {"succeeded": 1, "preparing": 1, "queuing": 1}
    last = await store.collections.events.last_seq()
    assert last == 17
    await store.finish_rollout("ro-2")
    assert (await store.statistics())["rollouts_by_status"] == {"succeeded": 2, "queuing": 1}
    events = store.subscribe(since=last)
    assert (await anext(events)).seq == last + 1
    await events.aclose()
    await store.close()
    store = SQLiteLightningStore(tmp_path / "old.db")
    assert (await store.statistics())["rollouts_by_status"] == {"succeeded": 2, "queuing": 1}
    assert (await check_store(store)).findings == []
    await store.close()


OPEN = """
import asyncio, sys
from agentlightning.store.sqlite import SQLiteLightningStore
sys.stdin.readline()
store = SQLiteLightningStore(sys.argv[1])
print(asyncio.run(store.statistics())["total_spans"])
asyncio.run(store.close())
"""


def test_two_processes_migrate_once(tmp_path):
    """Of processes that open an old file at the same time, one migrates it."""
    path = old_database(tmp_path / "old.db")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == ["3"] * 3


async def test_newer_layout_is_refused(tmp_path):
    """A file of a later version is not touched, and the error names both versions."""
    path = tmp_path / "store.db"
    await SQLiteLightningStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE agentlightning_layout SET version = 99")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=rf"layout 99.* up to {SCHEMA_VERSION}"):
        SQLiteLightningStore(path)
    assert path.read_bytes() == before


def test_failed_migration_changes_nothing(tmp_path):
    """A migration that fails half-way leaves the file as it was."""
    path = old_database(tmp_path / "old.db")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE spans SET payload = '{' WHERE ordinal = 2")
    connection.commit()
    before = list(connection.iterdump())
    connection.close()
    with pytest.raises(ValueError, match="Expecting"):
        SQLiteLightningStore(path)
    connection = sqlite3.connect(path)
    assert list(connection.iterdump()) == before
    connection.close()


def test_fresh_file_has_the_present_layout(tmp_path):
    """A new file begins with the present version."""
    store = SQLiteLightningStore(tmp_path / "new.db")
    asyncio.run(store.close())
    connection = sqlite3.connect(tmp_path / "new.db")
    version = connection.execute("SELECT version FROM agentlightning_layout").fetchone()
    connection.close()
    assert version == (SCHEMA_VERSION,)
