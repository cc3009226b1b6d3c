"""Random operations on a store and on a plain model of it, side by side: results, errors and all
that is kept must be the same after each.
"""

import itertools
import uuid
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.mongo import MongoLightningStore
from agentlightning.store.postgres import PostgresLightningStore
from agentlightning.store.redis import RedisLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from tests.support.redis_server import RedisProcess
from tests.support.store_harness import NEVER, Opener, plain
from tests.support.store_model import Record
from tests.support.store_rules import WritingMachine, maybe, metadata, rollout_at

pytestmark = pytest.mark.timeout(600)

orders, limits = st.sampled_from(["asc", "desc"]), st.integers(-1, 3)


def in_order(records: list[Record], sort_by: str | None, sort_order: str) -> list[Record]:
    """Sort as the contract says: None is infinite among times and empty among texts."""
    if sort_by is None:
        return records
    missing: Any = float("inf") if sort_by.endswith("_time") else ""

    def key(record: Record) -> Any:
        value = record[sort_by]
        return missing if value is None else value

    return sorted(records, key=key, reverse=sort_order == "desc")


def page_of(records: list[Record], limit: int, offset: int) -> list[Record]:
    return records[offset:] if limit == -1 else records[offset : offset + limit]


class StoreMachine(WritingMachine):
    """Asks, too."""

    @rule(
        status_in=maybe([("queuing", "requeuing"), ("succeeded",), ()]),
        mode_in=maybe([("train",)]),
        contains=maybe(["-1", "%"]),
        ids=maybe([(0, 2)]),
        wanted=metadata,
        logic=st.sampled_from(["and", "or"]),
        sort_by=maybe(["rollout_id", "start_time", "end_time", "status", "mode"]),
        order=orders,
        limit=limits,
        offset=st.integers(0, 2),
    )
    def query_rollouts(
        self,
        status_in: Any,
        mode_in: Any,
        contains: str | None,
        ids: tuple[int, ...] | None,
        wanted: Record | None,
        logic: str,
        sort_by: str | None,
        order: str,
        limit: int,
        offset: int,
    ) -> None:
        within = None if ids is None else [self.rollout_id(at) for at in ids]
        got = self.runner.run(
            self.store.query_rollouts(
                status_in=status_in,
                mode_in=mode_in,
                rollout_id_contains=contains,
                rollout_id_in=within,
                metadata=wanted,
                filter_logic=logic,
                sort_by=sort_by,
                sort_order=order,
                limit=limit,
                offset=offset,
            )
        )

        def matches(row: Record) -> bool:
            tests = [
                None if status_in is None else row["status"] in status_in,
                None if mode_in is None else row["mode"] in mode_in,
                None if contains is None else contains in row["rollout_id"],
                None if within is None else row["rollout_id"] in within,
                None if wanted is None else wanted.items() <= row["metadata"].items(),
            ]
            asked = [test for test in tests if test is not None]
            return not asked or (all(asked) if logic == "and" else any(asked))

        found = [row for row in self.model.rollouts.values() if matches(row)]
        page = page_of(in_order(found, sort_by, order), limit, offset)
        assert plain(list(got)) == [self.shown(row["rollout_id"]) for row in page]
        assert (got.total, got.limit, got.offset) == (len(found), limit, offset)

    @rule(
        at=rollout_at,
        which=maybe([0, 1, 2]),
        name=maybe(["odd"]),
        span=maybe([2]),
        parent=maybe(["01"]),
        logic=st.sampled_from(["and", "or"]),
        sort_by=maybe(["sequence_id", "start_time", "name", "parent_id"]),
        order=orders,
        limit=limits,
        offset=st.integers(0, 2),
    )
    def query_spans(
        self,
        at: int,
        which: int | None,
        name: str | None,
        span: int | None,
        parent: str | None,
        logic: str,
        sort_by: str | None,
        order: str,
        limit: int,
        offset: int,
    ) -> None:
        rollout_id = self.rollout_id(at)
        attempt_id = None if which is None else self.named(rollout_id, which)
        span_id = None if span is None else f"{span:016x}"
        got = self.runner.run(
            self.store.query_spans(
                rollout_id,
                attempt_id,
                name=name,
                span_id=span_id,
                parent_id_contains=parent,
                filter_logic=logic,
                sort_by=sort_by,
                sort_order=order,
                limit=limit,
                offset=offset,
            )
        )
        owner = attempt_id
        if attempt_id == "latest":
            latest = self.model.latest(rollout_id)
            owner = latest["attempt_id"] if latest else "none"

        def matches(row: Record) -> bool:
            tests = [
                None if name is None else row["name"] == name,
                None if span_id is None else row["span_id"] == span_id,
                None if parent is None else parent in (row["parent_id"] or ""),
            ]
            asked = [test for test in tests if test is not None]
            mine = owner is None or row["attempt_id"] == owner
            return mine and (not asked or (all(asked) if logic == "and" else any(asked)))

        found = [row for row in self.model.spans.get(rollout_id, []) if matches(row)]
        page = page_of(in_order(found, sort_by, order), limit, offset)
        assert plain(list(got)) == page
        assert got.total == len(found)

    @rule(
        status_in=maybe([("idle",), ("busy", "unknown")]),
        sort_by=maybe(["worker_id", "last_idle_time", "status"]),
        order=orders,
        limit=limits,
    )
    def query_workers(self, status_in: Any, sort_by: Any, order: Any, limit: int) -> None:
        got = self.ask(
            lambda: self.store.query_workers(
                status_in=status_in, sort_by=sort_by, sort_order=order, limit=limit
            )
        )
        rows = list(self.model.workers.values())
        found = [row for row in rows if status_in is None or row["status"] in status_in]
        assert got["items"] == page_of(in_order(found, sort_by, order), limit, 0)


@pytest.fixture(scope="module")
def redis_server():
    process = RedisProcess()
    yield process
    process.close()


@contextmanager
def in_memory():
    yield InMemoryLightningStore(scan_debounce_seconds=NEVER)


class TestStoreDoesWhatTheModelDoes:
    """Whatever is called in whatever order, store and model agree."""

    def test_memory(self):
        """The store in memory."""
        check(in_memory, 60)

    def test_sqlite(self, tmp_path):
        """The store in a file."""
        number = itertools.count()

        @contextmanager
        def opener():
            path = tmp_path / f"{next(number)}.db"
            yield SQLiteLightningStore(path, scan_debounce_seconds=NEVER)

        check(opener, 12)

    def test_postgres(self, postgres):
        """The store in PostgreSQL."""

        @contextmanager
        def opener():
            url = postgres.new_store()
            yield PostgresLightningStore(url, pool_size=2, scan_debounce_seconds=NEVER)

        check(opener, 4)

    def test_redis(self, redis_server):
        """The store in Redis."""

        @contextmanager
        def opener():
            url = redis_server.url(uuid.uuid4().hex)
            yield RedisLightningStore(url, scan_debounce_seconds=NEVER)

        check(opener, 8)

    def test_mongo(self, mongo_uri):
        """The store in MongoDB, with and without transactions."""

        @contextmanager
        def opener():
            yield MongoLightningStore(mongo_uri=mongo_uri, scan_debounce_seconds=NEVER)

        check(opener, 4)


def check(opener: Opener, examples: int) -> None:
    run_state_machine_as_test(
        lambda: StoreMachine(opener),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            # Explaining takes minutes on Python 3.11, where it traces every line.
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        ),
    )
