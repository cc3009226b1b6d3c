"""Faults that only a backend can see; the others are in the conformance suite of every store."""

import sqlite3

import pytest_asyncio

from agentlightning.store.check import check_store
from agentlightning.store.retention import RetentionPolicy
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.conformance.store_spans import make_span

LONG = "a long prompt " * 1000


@pytest_asyncio.fixture
async def path(tmp_path):
    """A file with a span whose long value is kept apart."""
    path = tmp_path / "store.db"
    store = SQLiteLightningStore(path)
    claim = await store.start_rollout(1, rollout_id="ro-a")
    await store.add_span(make_span(claim, attributes={"long": LONG}))
    await store.update_attempt("ro-a", "latest", status="succeeded")
    await store.close()
    return path


def change(path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


async def found(path, *, repair: bool = False) -> tuple[set[str], set[str]]:
    store = SQLiteLightningStore(path)
    try:
        report = await check_store(store, repair=repair)
    finally:
        await store.close()
    return {each.code for each in report.findings}, {each.code for each in report.repaired}


async def test_a_missing_content_is_named(path):
    """The span that cannot be read is named, and nothing pretends to repair it."""
    assert await found(path) == (set(), set())
    change(path, "DELETE FROM contents WHERE rowid = (SELECT min(rowid) FROM contents)")
    assert await found(path, repair=True) == ({"contents_missing"}, set())


async def test_contents_of_nobody_are_removed(path):
    """What no span uses takes room until a repair."""
    change(path, "INSERT INTO contents (name, data) VALUES ('nobody', 'x')")
    assert await found(path) == ({"contents_unused"}, set())
    assert await found(path, repair=True) == (set(), {"contents_unused"})
    assert await found(path) == (set(), set())
    change(path, "INSERT INTO content_owners (rollout_id, name) VALUES ('ro-gone', 'nothing')")
    assert await found(path) == ({"contents_held"}, set())
    assert await found(path, repair=True) == (set(), {"contents_held"})


async def test_shared_contents_stay_while_somebody_uses_them(path):
    """Removing one rollout's spans keeps what another's share, and removes the rest."""
    store = SQLiteLightningStore(path)
    claim = await store.start_rollout(2, rollout_id="ro-b")
    await store.add_span(make_span(claim, attributes={"long": LONG, "own": "b" * 5000}))
    await store.update_attempt("ro-b", "latest", status="succeeded")
    await store.mark_read(["ro-b"])
    report = await store.apply_retention(RetentionPolicy(keep_rollouts=0))
    assert report.rollout_ids == ["ro-b"]
    (span,) = await store.query_spans("ro-a")
    assert span.attributes["long"] == LONG
    await store.mark_read(["ro-a"])
    await store.apply_retention(RetentionPolicy(keep_rollouts=0))
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM contents").fetchone() == (0,)
    connection.close()
    assert await found(path) == (set(), set())


async def test_overtaken_attempts_are_ended(path):
    """An attempt that an old version left open beside its successor ends as it would today."""
    store = SQLiteLightningStore(path)
    first = await store.start_rollout(1, rollout_id="ro-b", worker_id="w-1")
    await store.update_attempt("ro-b", first.attempt.attempt_id, metadata={"own": 1})
    await store.start_attempt("ro-b", "w-2")
    await store.close()
    change(
        path,
        "UPDATE attempts SET status = 'running', end_time = NULL, body = '{\"metadata\":{\"own\":1}}' "
        "WHERE rollout_id = 'ro-b' AND sequence_id = 1",
    )
    assert await found(path) == ({"open_attempt"}, set())
    assert await found(path, repair=True) == (set(), {"open_attempt"})
    store = SQLiteLightningStore(path)
    overtaken, latest = await store.query_attempts("ro-b")
    assert (overtaken.status, overtaken.metadata) == (
        "failed",
        {"own": 1, "outcome": "interrupted"},
    )
    assert overtaken.end_time is not None
    assert latest.status == "preparing"
    assert (await store.get_rollout_by_id("ro-b")).status == "preparing"
    await store.close()
