"""Filters and orderings: what they mean, and that every backend means the same."""

import asyncio
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentlightning.errors import InvalidRequestError
from agentlightning.store.collections import DuplicatedPrimaryKeyError, InMemoryLightningCollections
from agentlightning.store.collections.filtering import compile_filter, none_rank, sort_records
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import Attempt, Span, Worker
from tests.store.collections.model import ATTEMPTS, FILTERS, SORTS, attempt


def test_no_condition_matches_everything():
    """An empty filter, or one whose operands are None, has no test at all."""
    for options in (None, {}, {"_aggregate": "or"}, {"status": {"exact": None}}, {"_must": {}}):
        assert compile_filter(options) is None


def test_must_applies_beside_any():
    """`_must` is AND-ed even when the other conditions are OR-ed."""
    test = compile_filter(
        {
            "_aggregate": "or",
            "status": {"exact": "failed"},
            "worker_id": {"exact": "w"},
            "_must": [{"rollout_id": {"exact": "r"}}, {"sequence_id": {"within": [1, 2]}}],
        }
    )
    assert test(attempt("r", status="failed"))
    assert test(attempt("r", worker_id="w", number=2))
    assert not test(attempt("r"))
    assert not test(attempt("x", status="failed"))
    assert not test(attempt("r", status="failed", number=3))


def test_contains_is_substring_or_membership():
    """`contains` looks into texts and containers, and never matches None."""
    assert compile_filter({"rollout_id": {"contains": "b"}})(attempt("abc"))
    assert compile_filter({"metadata": {"contains": "k"}})(attempt(metadata={"k": 1}))
    assert not compile_filter({"metadata": {"contains": "k"}})(attempt())


def test_none_ranks_by_kind():
    """None is infinity among times, empty among texts, and zero among numbers."""
    assert none_rank(Attempt, "end_time") == float("inf")
    assert none_rank(Attempt, "worker_id") == ""
    assert none_rank(Worker, "status") == ""
    assert none_rank(Attempt, "sequence_id") == 0
    for model, field in ((Attempt, "metadata"), (Attempt, "nothing"), (Span, "attributes")):
        with pytest.raises(InvalidRequestError, match="sorted by"):
            none_rank(model, field)


def test_equal_records_keep_their_order():
    """Sorting is stable in both directions."""
    records = [attempt(name=name) for name in "abc"]
    for order in ("asc", "desc"):
        assert sort_records(records, Attempt, {"name": "status", "order": order}) == records


@settings(max_examples=12, stateful_step_count=25, deadline=None)
class BackendsAgree(RuleBasedStateMachine):
    """SQLite and memory against a plain dict and list, under the same calls."""

    @initialize()
    def open(self):
        self.folder = tempfile.mkdtemp()
        self.sqlite = SQLiteLightningStore(f"{self.folder}/a.db")
        self.loop = asyncio.Runner()
        self.tables = [InMemoryLightningCollections().attempts, self.sqlite.collections.attempts]
        self.model: dict[tuple[str, str], Attempt] = {}

    def teardown(self):
        if hasattr(self, "sqlite"):
            self.loop.run(self.sqlite.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    @rule(items=st.lists(ATTEMPTS, max_size=3))
    def insert(self, items):
        keys = [(i.rollout_id, i.attempt_id) for i in items]
        bad = len(set(keys)) < len(keys) or any(key in self.model for key in keys)
        for table in self.tables:
            if bad:
                with pytest.raises(DuplicatedPrimaryKeyError):
                    self.loop.run(table.insert(items))
            else:
                self.loop.run(table.insert(items))
        if not bad:
            self.model.update(zip(keys, items, strict=True))

    @rule(item=ATTEMPTS, fields=st.none() | st.lists(st.sampled_from(["status", "end_time"])))
    def upsert(self, item, fields):
        key = (item.rollout_id, item.attempt_id)
        old = self.model.get(key)
        if old is None or fields is None:
            new = item
        else:
            new = old.model_copy(update={field: getattr(item, field) for field in fields})
        for table in self.tables:
            assert list(self.loop.run(table.upsert([item], fields))) == [new]
        self.model[key] = new

    @rule(data=st.data())
    def delete(self, data):
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            item = self.model.pop(key)
            for table in self.tables:
                self.loop.run(table.delete([item]))

    @rule(options=FILTERS, sort=SORTS, limit=st.integers(-1, 3), offset=st.integers(0, 3))
    def query(self, options, sort, limit, offset):
        test = compile_filter(options)
        matching = [a for a in self.model.values() if test is None or test(a)]
        expected = sort_records(matching, Attempt, sort)
        memory, sqlite = (self.loop.run(t.query(options, sort, limit, offset)) for t in self.tables)
        end = None if limit == -1 else offset + limit
        assert sqlite.total == memory.total == len(expected)
        assert list(sqlite) == expected[offset:end]
        # Memory keeps insertion order within a rollout only; see `ListBasedCollection`.
        key = sort and (lambda a: (getattr(a, sort["name"]) is None, getattr(a, sort["name"])))
        if limit == -1 and offset == 0:
            assert sorted(map(repr, memory)) == sorted(map(repr, expected))
            if key:
                assert [key(a) for a in memory] == [key(a) for a in expected]

    @invariant()
    def sizes_agree(self):
        assert {self.loop.run(table.size()) for table in self.tables} == {len(self.model)}


TestBackendsAgree = BackendsAgree.TestCase
