"""Collections in MongoDB's protocol: the common rules, steps that meet, crashes, with and without a
replica set.
"""

import asyncio
import gc
import itertools

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient

from agentlightning.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    StoreUnavailableError,
)
from agentlightning.store.collections import DuplicatedPrimaryKeyError, Reply
from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.filtering import compile_filter, sort_records
from agentlightning.store.collections.mongo import lock, sequence, sessions
from agentlightning.store.collections.mongo.condition import mongo_filter, mongo_order
from agentlightning.store.collections.mongo.layout import ATTEMPTS, EVENTS, PARTITIONS
from agentlightning.store.mongo import MongoLightningStore
from agentlightning.types import Attempt, Rollout, StoreEvent
from tests.store.collections.model import FILTERS, SORTS, CollectionConformance, attempt
from tests.support.mongo_server import mongo_server


@pytest_asyncio.fixture
async def store(mongo_uri):
    store = MongoLightningStore(mongo_uri=mongo_uri)
    yield store
    await store.close()


@pytest.fixture
def rows(store):
    return store.collections


@pytest.fixture
def database(mongo_uri):
    with MongoClient(mongo_uri) as client:
        yield client["agentlightning"]


@pytest_asyncio.fixture
async def side_by_side(tmp_path):
    """Give collections on which steps run side by side."""
    with mongo_server(tmp_path, "replica set") as uri:
        store = MongoLightningStore(mongo_uri=uri)
        yield store.collections
        await store.close()


@pytest.fixture
def single_uri(tmp_path):
    with mongo_server(tmp_path, "single server") as uri:
        yield uri


def rollout(name="r", status="queuing") -> Rollout:
    return Rollout(rollout_id=name, input=None, start_time=0.0, status=status)


def event() -> StoreEvent:
    return StoreEvent(seq=0, kind="worker_updated", time=0.0)


class TestMongoCollections(CollectionConformance):
    pass


SAMPLE = [
    attempt(
        name,
        label,
        number,
        start_time=1.0 + place % 2,
        end_time=[None, 0.5, 3.0][place % 3],
        status=["preparing", "running", "failed"][place % 3],
        worker_id=[None, "w1", "w2", ""][place % 4],
        metadata=[None, {"k": 1}, {}, {"l": 0}, {"k": 0, "l": 1}][place % 5],
    )
    for place, (name, (label, number)) in enumerate(
        itertools.product(["r1", "R1", "r2", "r%"], [("a", 1), ("b", 2), ("c", 3)])
    )
]


def test_filters_and_orders_mean_what_python_says(mongo_uri):
    """Whatever is asked for, the answer is the one that Python gives on the same records."""
    store = MongoLightningStore(mongo_uri=mongo_uri)
    table = store.collections.attempts

    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
    @given(FILTERS, SORTS, st.integers(-1, 4), st.integers(0, 4))
    def compare(options, sort, limit, offset):
        test = compile_filter(options)
        matching = [record for record in SAMPLE if test is None or test(record)]
        expected = sort_records(matching, Attempt, sort)
        end = None if limit == -1 else offset + limit
        page = runner.run(table.query(options, sort, limit, offset))
        assert list(page) == expected[offset:end]
        assert page.total == len(expected)
        first = runner.run(table.get(options, sort))
        assert first == (expected[0] if expected else None)

    with asyncio.Runner() as runner:
        runner.run(table.insert(SAMPLE))
        compare()
        runner.run(store.close())


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": {"contains": "k"}},
        {"metadata": {"has": {"k": 1}}},
        {"sequence_id": {"exact": "1"}},
        {"sequence_id": {"exact": 2**70}},
        {"start_time": {"exact": float("nan")}},
        {"payload": {"contains": "k"}},
        {"rollout_id": {"within": ["r"] * 60_000}},
        {"rollout_id": {"contains": "\0"}},
        {"_must": {"metadata": {"contains": "k"}}},
    ],
)
def test_only_python_can_answer_some_filters(options):
    """What MongoDB would compare differently is looked at again by Python."""
    assert mongo_filter(ATTEMPTS, options)[1] is False


def test_what_mongo_can_narrow_it_does():
    """A filter that is half MongoDB's narrows what Python has to look at."""
    narrowed, whole = mongo_filter(
        ATTEMPTS, {"status": {"exact": "failed"}, "metadata": {"contains": "k"}}
    )
    assert narrowed == [{"status": {"$eq": "failed"}}]
    assert not whole
    assert mongo_filter(ATTEMPTS, {"sequence_id": {"exact": True}}) == (
        [{"sequence_id": {"$eq": 1}}],
        True,
    )


def test_plain_fields_are_sorted_by_their_index():
    """A field that is never null is sorted as it is, others by their rank for None."""
    assert mongo_order(ATTEMPTS, {"name": "sequence_id", "order": "asc"}) == (
        [("sequence_id", 1), ("o", 1)],
        None,
    )
    terms, added = mongo_order(ATTEMPTS, {"name": "end_time", "order": "desc"}) or ([], None)
    assert terms[0][1] == -1
    assert added == {terms[0][0]: {"$ifNull": ["$end_time", float("inf")]}}


async def test_scan_goes_on_from_a_cursor(rows):
    """Records and the queue are read page by page in order, from where the last page ended."""
    await rows.attempts.insert([attempt(name=str(n)) for n in range(5)])
    await rows.rollout_queue.enqueue(list("abcde"))
    for table, label in ((rows.attempts, lambda a: int(a.attempt_id)), (rows.rollout_queue, str)):
        first = await table.scan(limit=2)
        rest = await table.scan(first[-1][0], limit=9)
        got = [label(item) for _, item in (*first, *rest)]
        assert got in ([0, 1, 2, 3, 4], list("abcde"))
        assert await table.scan(rest[-1][0]) == []
        with pytest.raises(InvalidRequestError, match="cursor"):
            await table.scan("nonsense")


async def test_journal_numbers_have_no_gap_and_old_ones_go(rows, monkeypatch):
    """Old events are dropped in blocks, and asking for them is an error."""
    monkeypatch.setattr(sequence, "KEPT_EVENTS", 10)
    monkeypatch.setattr(sequence, "PRUNE_EVERY", 20)
    for number in range(5):
        events = [event() for _ in range(9)]
        if number % 2:
            await rows.events.append(events)
        else:
            await rows.apply(Changes(events=events))
        assert [e.seq for e in events] == list(range(number * 9 + 1, number * 9 + 10))
    assert await rows.events.last_seq() == 45
    assert [e.seq for e in await rows.events.read(43)] == [44, 45]
    assert len(await rows.events.read(35)) == 10
    assert await rows.events.read(45) == []
    with pytest.raises(ConflictError, match="no longer kept"):
        await rows.events.read(3)


async def test_step_that_was_overtaken_runs_again(side_by_side):
    """A step whose rollout changed after it was read starts anew and sees the change."""
    rows = side_by_side
    await rows.apply(Changes(new_rollouts={"r": rollout()}))
    seen = []

    async def step(inner):
        found = (await inner.find_rollouts(["r"]))["r"]
        seen.append(found.status)
        if len(seen) == 1:
            await rows.execute(overtake)
        await inner.apply(Changes(rollouts={"r": rollout(status="failed")}))

    async def overtake(inner):
        await inner.find_rollouts(["r"])
        # Only a span's number changes: it is guarded by its rollout.
        await inner.apply(Changes(sequence_ids={"r": 5}))

    await rows.execute(step)
    assert len(seen) == 2
    assert (await rows.rollouts.get()).status == "failed"


async def test_objection_to_half_a_change_is_not_believed(side_by_side):
    """A step that fails over what somebody else was just changing runs again."""
    rows = side_by_side
    await rows.apply(Changes(new_rollouts={"r": rollout()}))
    runs = []

    async def step(inner):
        await inner.find_rollouts(["r"])
        runs.append(1)
        if len(runs) == 1:
            await rows.execute(overtake)
            raise NotFoundError("seen in between")
        return "fine"

    async def overtake(inner):
        await inner.find_rollouts(["r"])
        await inner.apply(Changes(rollouts={"r": rollout(status="failed")}))

    assert await rows.execute(step) == "fine"

    async def wrong(inner):
        await inner.find_rollouts(["r"])
        raise NotFoundError("really")

    with pytest.raises(NotFoundError, match="really"):
        await rows.execute(wrong)


async def test_steps_that_write_one_by_one_are_transactions_too(rows, store):
    """A step may use the collections' own writes; they and its changes happen together."""

    async def step(inner):
        await inner.find_rollouts(["r"])
        await inner.span_sequence_ids.set("k", 3)
        assert await inner.span_sequence_ids.get("k") == 3
        await inner.apply(Changes(new_rollouts={"r": rollout()}, reply=Reply("key", 1.0, [["r"]])))
        return await inner.rollouts.size()

    assert await rows.execute(step) == 1
    assert await rows.span_sequence_ids.get("k") == 3
    assert (await rows.find_reply("key")).refs == [["r"]]


async def test_reply_is_kept_once(rows, database, store):
    """A reply is stored with the step that gave it; a second of its key is refused, as a whole."""
    reply = Reply("key", 12.5, [["r", "a", 1]])
    await rows.apply(Changes(new_rollouts={"r": rollout()}, reply=reply))
    assert await rows.find_reply("key") == reply
    assert await rows.find_reply("other") is None
    with pytest.raises(DuplicatedPrimaryKeyError):
        await rows.apply(Changes(new_rollouts={"s": rollout("s")}, reply=reply))
    assert await rows.rollouts.size() == 1
    lives = [i for i in database["replies"].list_indexes() if "expireAfterSeconds" in i]
    assert lives[0]["expireAfterSeconds"] >= 3600


async def test_steps_that_wait_together_are_written_together(rows, database, store):
    """Many small steps at once share transactions, and each gets its own numbers."""
    changes = [
        Changes(new_rollouts={str(n): rollout(str(n))}, queued={str(n): None}, events=[event()])
        for n in range(40)
    ]
    changes.append(Changes(new_rollouts={"7": rollout("7")}, events=[event()]))
    results = await asyncio.gather(*map(rows.apply, changes), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert [type(error) for error in failed] == [DuplicatedPrimaryKeyError]
    assert sorted(c.events[0].seq for c, r in zip(changes, results, strict=True) if r is None) == (
        list(range(1, 41))
    )
    assert await rows.rollout_queue.size() == await rows.rollouts.size() == 40
    assert [e.seq for e in await rows.events.read(0)] == list(range(1, 41))


async def test_removed_rollouts_take_all_they_had(rows, store):
    """Removing rollouts, or only their spans, is part of the step, and counts the spans."""
    from agentlightning.types import Span

    spans = [
        Span.from_attributes(attributes={}, rollout_id=owner, attempt_id="a") for owner in "rrs"
    ]
    await rows.apply(
        Changes(
            new_rollouts={key: rollout(key, "failed") for key in "rs"},
            new_attempts={(key, "a"): attempt(key) for key in "rs"},
            new_spans=spans,
            sequence_ids={"r": 2, "s": 1},
        )
    )
    sizes = await rows.find_span_bytes(["r", "s", "none"])
    assert sizes["r"] > sizes["s"] > sizes["none"] == 0
    assert await rows.count_by_status() == {"failed": 2}

    async def remove(inner, *, spans_only):
        found = await inner.find_rollouts(["r"])
        count = await inner.remove(list(found), spans_only=spans_only)
        await inner.apply(Changes())
        return count

    assert await rows.execute(lambda inner: remove(inner, spans_only=True)) == 2
    assert await rows.rollouts.size() == 2
    assert await rows.execute(lambda inner: remove(inner, spans_only=False)) == 0
    assert [r.rollout_id for r in await rows.rollouts.query()] == ["s"]
    assert await rows.attempts.size() == await rows.spans.size() == 1
    assert await rows.find_sequence_ids(["r", "s"]) == {"r": 0, "s": 1}


async def test_snapshot_reads(rows, store):
    """A snapshot sees one moment, where there are transactions."""
    await rows.apply(Changes(new_rollouts={"r": rollout()}))

    async def step(inner):
        return await inner.rollouts.size(), await inner.rollouts.size()

    assert await rows.execute(step, mode="r", snapshot=True) == (1, 1)
    async with rows.atomic("r") as inner:
        assert await inner.rollouts.size() == 1


async def test_open_block_is_one_change(rows, store):
    """What is written in a block is there when it ends; blocks within belong to it."""
    async with rows.atomic() as block:
        await block.rollouts.insert([rollout()])
        async with block.atomic() as inner:
            assert await inner.rollouts.size() == 1
        assert await block.execute(lambda inner: inner.rollouts.size()) == 1
    assert await rows.rollouts.size() == 1


async def test_failed_block_leaves_nothing(tmp_path):
    """With a replica set, a block that raises is undone as a whole."""
    with mongo_server(tmp_path, "replica set") as uri:
        store = MongoLightningStore(mongo_uri=uri)
        rows = store.collections
        with pytest.raises(RuntimeError, match="stop"):
            async with rows.atomic() as block:
                await block.rollouts.insert([rollout()])
                raise RuntimeError("stop")
        assert await rows.rollouts.size() == 0
        await store.close()


async def test_writer_that_dies_is_finished_by_the_next(single_uri, monkeypatch):
    """Without transactions, a step that stopped half-way is completed before anything else."""
    dying = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    await dying.enqueue_rollout(0)

    async def die(opened, writes, end):
        await real(opened, [write for write in writes if write.collection != "rollouts"], end)
        raise StoreUnavailableError("dead")

    real = lock.write_again
    monkeypatch.setattr(lock, "write_again", die)
    with pytest.raises(StoreUnavailableError, match="dead"):
        await dying.enqueue_rollout("half", rollout_id="ro-half")
    monkeypatch.undo()
    assert len(await dying.collections.events.read(0)) == await dying.last_event_seq() == 1
    next_one = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    await next_one.enqueue_rollout(2)
    claimed = await next_one.dequeue_many_rollouts(limit=9)
    assert [claim.input for claim in claimed] == [0, "half", 2]
    events = await next_one.collections.events.read(0)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    assert "ro-half" in {e.rollout_id for e in events}
    await dying.close()
    await next_one.close()


async def test_lock_of_a_dead_holder_is_taken(single_uri, monkeypatch):
    """Without transactions, a lock whose holder shows no life is taken, and its holder notices."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.2)
    sleeping = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    awake = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    async with sleeping.collections.atomic() as block:
        await awake.enqueue_rollout("awake")
        await block.rollouts.size()
    await sleeping.enqueue_rollout("later")
    assert [r.input for r in await awake.query_rollouts()] == ["awake", "later"]
    await sleeping.close()
    await awake.close()


async def test_waiting_rollouts_get_back_in_line(single_uri):
    """Without transactions, a rollout that waits but is not in line is queued at opening."""
    store = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    await store.enqueue_rollout("lost")
    await store.start_rollout("begun")
    await store.collections.rollout_queue.dequeue()
    await store.close()
    store = MongoLightningStore(mongo_uri=single_uri, partition_id="p")
    assert [claim.input for claim in await store.dequeue_many_rollouts(limit=9)] == ["lost"]
    await store.close()


async def test_note_too_large_for_a_document(single_uri, monkeypatch):
    """Without transactions, a step with more spans than a note can hold is stored all the same."""
    monkeypatch.setattr(lock, "_NOTE_BYTES", 10_000)
    from tests.conformance.store_spans import make_span

    store = MongoLightningStore(mongo_uri=single_uri)
    started = await store.start_rollout(1)
    stored = await store.add_many_spans([make_span(started) for _ in range(50)])
    assert [span.sequence_id for span in stored] == list(range(1, 51))
    assert len(await store.query_spans(started.rollout_id)) == 50
    await store.close()


async def test_hot_questions_use_an_index(database, store):
    """Claims, listings and spans are found by an index, not by looking at everything."""
    await store.enqueue_rollout(1)
    mine = {"partition_id": store.partition_id}
    for name, where, order in (
        ("rollouts", {"status": "queuing"}, [("o", 1)]),
        ("rollouts", {}, [("start_time", 1), ("o", 1)]),
        ("rollout_queue", {}, [("o", 1)]),
        ("attempts", {"rollout_id": "r"}, [("sequence_id", -1)]),
        ("spans", {"rollout_id": "r"}, [("sequence_id", 1), ("o", 1)]),
        (EVENTS, {"seq": {"$gt": 1}}, [("seq", 1)]),
    ):
        plan = database[name].find({**mine, **where}).sort(order).explain()
        assert "IXSCAN" in str(plan["queryPlanner"]["winningPlan"]), (name, where)


def test_store_that_nobody_closed_ends_its_thread(mongo_uri):
    """Dropping the last reference to a store ends its thread, also while it watches."""
    store = MongoLightningStore(mongo_uri=mongo_uri)
    asyncio.run(store.enqueue_rollout(1))
    store.collections.watch(lambda: None)
    thread = store.collections._connection.io._thread
    del store
    for _ in range(3000):
        gc.collect()
        if not thread.is_alive():
            break
        thread.join(0.01)
    assert not thread.is_alive()


async def test_removed_partition_says_so(database, store):
    """A partition whose document was deleted is reported instead of starting at zero again."""
    await store.enqueue_rollout(1)
    database[PARTITIONS].delete_one({"_id": store.partition_id})
    with pytest.raises((ConflictError, RuntimeError), match="was removed"):
        await store.enqueue_rollout(2)


async def test_transaction_of_a_dead_process_is_ended(tmp_path, monkeypatch):
    """With a replica set, what a killed process had begun does not keep others from writing."""
    monkeypatch.setattr(sessions, "STUCK_SECONDS", 0.2)
    with mongo_server(tmp_path, "replica set") as uri:
        dead = MongoLightningStore(mongo_uri=uri, partition_id="p")
        alive = MongoLightningStore(mongo_uri=uri, partition_id="p")
        with pytest.raises(StoreUnavailableError):
            async with dead.collections.atomic() as block:
                await block.rollouts.insert([rollout("begun")])
                await alive.enqueue_rollout("alive")
        assert [r.input for r in await alive.query_rollouts()] == ["alive"]
        await dead.enqueue_rollout("dead")
        assert len(await alive.query_rollouts()) == 2
        await dead.close()
        with MongoClient(uri) as client:
            kept = client["agentlightning"]["agentlightning_sessions"].count_documents({})
        assert kept == 1
        await alive.close()
