"""Rules that every backend's collections keep, as tests of one fixture `rows`, and a plain model."""

import pytest
from hypothesis import strategies as st

from agentlightning.errors import InvalidRequestError, NotFoundError
from agentlightning.store.collections import DuplicatedPrimaryKeyError
from agentlightning.types import Attempt

STATUSES = ["preparing", "running", "failed"]


def attempt(rollout="r", name="a", number=1, **fields) -> Attempt:
    return Attempt(
        rollout_id=rollout, attempt_id=name, sequence_id=number, **{"start_time": 1.0, **fields}
    )


ATTEMPTS = st.builds(
    Attempt,
    rollout_id=st.sampled_from(["r1", "r2", "R1", "r%"]),
    attempt_id=st.sampled_from(["a", "b", "c"]),
    sequence_id=st.integers(1, 3),
    start_time=st.sampled_from([1.0, 2.0]),
    end_time=st.none() | st.sampled_from([0.5, 3.0]),
    status=st.sampled_from(STATUSES),
    worker_id=st.none() | st.sampled_from(["w1", "w2", ""]),
    metadata=st.none() | st.dictionaries(st.sampled_from(["k", "l"]), st.integers(0, 1)),
)
_FIELDS = {
    "rollout_id": st.fixed_dictionaries(
        {},
        optional={
            "exact": st.sampled_from(["r1", "r2", None]),
            "within": st.lists(st.sampled_from(["r1", "R1", "x"])),
            "contains": st.sampled_from(["1", "R", "%", None]),
        },
    ),
    "status": st.fixed_dictionaries(
        {}, optional={"within": st.none() | st.lists(st.sampled_from(STATUSES), max_size=2)}
    ),
    "worker_id": st.fixed_dictionaries(
        {},
        optional={
            "within": st.lists(st.sampled_from(["w1", "", None]), max_size=2),
            "contains": st.sampled_from(["w", "2"]),
        },
    ),
    "sequence_id": st.fixed_dictionaries({}, optional={"exact": st.integers(1, 3)}),
    "end_time": st.fixed_dictionaries({}, optional={"within": st.just([3.0, None])}),
    "metadata": st.fixed_dictionaries({}, optional={"contains": st.sampled_from(["k"])}),
}
_AGGREGATE = {"_aggregate": st.sampled_from(["and", "or"])}
_FLAT = st.fixed_dictionaries({}, optional={**_FIELDS, **_AGGREGATE})
FILTERS = st.none() | st.fixed_dictionaries(
    {}, optional={**_FIELDS, **_AGGREGATE, "_must": _FLAT | st.lists(_FLAT, max_size=2)}
)
SORTS = st.none() | st.fixed_dictionaries(
    {
        "name": st.sampled_from(
            ["sequence_id", "end_time", "worker_id", "status", "start_time", "rollout_id"]
        ),
        "order": st.sampled_from(["asc", "desc"]),
    }
)


class CollectionConformance:
    async def test_insert_is_all_or_nothing(self, rows):
        """One duplicate, stored or within the call, keeps all of a call's items out."""
        table = rows.attempts
        await table.insert([attempt(name="a")])
        for items in ([attempt(name="b"), attempt(name="a")], [attempt(name="c")] * 2):
            with pytest.raises(DuplicatedPrimaryKeyError):
                await table.insert(items)
        await table.insert([])
        assert await table.size() == 1

    async def test_update_is_all_or_nothing(self, rows):
        """Updating or deleting a missing record raises and changes nothing."""
        table = rows.attempts
        await table.insert([attempt(name="a")])
        changed = attempt(name="a", status="failed")
        with pytest.raises(NotFoundError):
            await table.update([changed, attempt(name="b")])
        with pytest.raises(NotFoundError):
            await table.delete([changed, attempt(name="b")])
        assert await table.get() == attempt(name="a")
        await table.delete([changed])
        assert await table.size() == 0

    async def test_partial_updates(self, rows):
        """update_fields takes over only those fields; an empty list is get-or-insert."""
        table = rows.attempts
        await table.insert([attempt(number=1)])
        other = attempt(number=2, status="failed", worker_id="w")
        (stored,) = await table.update([other], update_fields=["status"])
        assert (stored.status, stored.sequence_id, stored.worker_id) == ("failed", 1, None)
        (stored,) = await table.upsert([other], update_fields=[])
        assert stored.sequence_id == 1
        (stored,) = await table.upsert([other], update_fields=["worker_id"])
        assert (stored.sequence_id, stored.worker_id) == (1, "w")
        (stored,) = await table.upsert([other])
        assert stored == other
        (fresh,) = await table.upsert([attempt(name="new")], update_fields=[])
        assert fresh.attempt_id == "new"
        assert await table.size() == 2

    async def test_wrong_type_and_wrong_filter(self, rows):
        """Items of another type, unknown operators and impossible pages are refused."""
        with pytest.raises(TypeError):
            await rows.rollouts.insert([attempt()])
        with pytest.raises(InvalidRequestError, match="like"):
            await rows.attempts.query({"status": {"like": "x"}})
        with pytest.raises(InvalidRequestError, match="_aggregate"):
            await rows.attempts.query({"_aggregate": "xor", "status": {"exact": "failed"}})
        for limit, offset in ((-2, 0), (1, -1)):
            with pytest.raises(InvalidRequestError):
                await rows.attempts.query(limit=limit, offset=offset)

    async def test_pages(self, rows):
        """A limit of 0 gives no items and the total; an offset skips."""
        await rows.attempts.insert([attempt(name=str(i)) for i in range(3)])
        page = await rows.attempts.query(limit=0)
        assert (list(page), page.total) == ([], 3)
        page = await rows.attempts.query(offset=1)
        assert [a.attempt_id for a in page] == ["1", "2"]
        assert page.total == 3
        assert rows.attempts.primary_keys() == ("rollout_id", "attempt_id")
        assert rows.attempts.item_type() is Attempt

    async def test_queue(self, rows):
        """The queue is first in, first out, and holds text only."""
        queue = rows.rollout_queue
        assert list(await queue.dequeue()) == []
        await queue.enqueue(["a", "b", "a"])
        assert await queue.has("a")
        assert list(await queue.peek(2)) == ["a", "b"]
        assert list(await queue.dequeue(2)) == ["a", "b"]
        assert await queue.has("a")
        assert not await queue.has("b")
        assert await queue.size() == 1
        assert list(await queue.dequeue(0)) == []
        assert list(await queue.dequeue(5)) == ["a"]
        assert not await queue.has("a")
        await queue.enqueue(["later"])
        assert list(await queue.dequeue()) == ["later"]
        with pytest.raises(TypeError):
            await queue.enqueue([1])
        assert queue.item_type() is str

    async def test_counters(self, rows):
        """Counters add, never go back by chmax, and refuse what is no number."""
        counters = rows.span_sequence_ids
        assert await counters.inc("k", 2) == 2
        assert await counters.inc("k", 1) == 3
        assert await counters.chmax("k", 2) == 3
        assert await counters.chmax("k", 9) == 9
        assert await counters.chmax("new", 4) == 4
        assert await counters.get("none", 7) == 7
        assert not await counters.has("none")
        await counters.set("k", 1)
        assert await counters.get("k") == 1
        assert await counters.size() == 2
        assert await counters.pop("k") == 1
        assert await counters.pop("k", 5) == 5
        for bad in (True, "1", None):
            with pytest.raises(TypeError):
                await counters.inc("k", bad)
            with pytest.raises(TypeError):
                await counters.chmax("k", bad)
