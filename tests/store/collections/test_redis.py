"""Collections in Redis: the common rules, blocks that conflict, indexes, the journal's limits."""

import asyncio
import gc
import uuid

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning.errors import ConflictError, InvalidRequestError, StoreUnavailableError
from agentlightning.store.collections import Changes, DuplicatedPrimaryKeyError, Reply
from agentlightning.store.collections.filtering import compile_filter, sort_records
from agentlightning.store.collections.redis import database, plan, program
from agentlightning.store.collections.redis.layout import ATTEMPTS, ROLLOUTS, SPANS
from agentlightning.store.redis import RedisLightningStore
from agentlightning.types import Attempt, Rollout, Span, StoreEvent
from tests.store.collections.model import ATTEMPTS as SOME_ATTEMPTS
from tests.store.collections.model import FILTERS, SORTS, CollectionConformance, attempt
from tests.support.redis_server import RedisProcess
from tests.support.threads import new_threads


@pytest.fixture(scope="module")
def server():
    process = RedisProcess(appendfsync="no")
    yield process
    process.close()


@pytest_asyncio.fixture
async def store(server):
    store = RedisLightningStore(server.url(uuid.uuid4().hex))
    yield store
    await store.close()


@pytest.fixture
def rows(store):
    return store.collections


class TestRedisCollections(CollectionConformance):
    pass


def rollout(name="r", **fields) -> Rollout:
    return Rollout(rollout_id=name, input=None, **{"start_time": 1.0, **fields})


def spans(count, **fields) -> list[Span]:
    return [
        Span.from_attributes(
            attributes={}, rollout_id="r", attempt_id="a", **{"sequence_id": number, **fields}
        )
        for number in range(1, count + 1)
    ]


# Filters, orderings and pages mean the same as everywhere.


@pytest.fixture(scope="module")
def runner(server):
    with asyncio.Runner() as runner:
        yield runner


@settings(max_examples=60)
@given(
    items=st.lists(SOME_ATTEMPTS, max_size=12, unique_by=lambda a: (a.rollout_id, a.attempt_id)),
    written=st.integers(0, 12),
    options=FILTERS,
    sort=SORTS,
    limit=st.integers(-1, 4),
    offset=st.integers(0, 4),
)
def test_queries_agree_with_their_meaning(
    server, runner, items, written, options, sort, limit, offset
):
    """Any filter, ordering and page gives what evaluating it in Python gives, whether the records
    are stored already or were written by the same block.
    """
    test = compile_filter(options)
    matching = sort_records([a for a in items if test is None or test(a)], Attempt, sort)
    expected = matching[offset : None if limit == -1 else offset + limit]

    async def check():
        store = RedisLightningStore(server.url(uuid.uuid4().hex))
        try:
            await store.collections.attempts.insert(items[:written])

            async def block(rows):
                await rows.attempts.insert(items[written:])
                return await rows.attempts.query(options, sort, limit=limit, offset=offset)

            found = await store.collections.execute(block)
            assert list(found) == expected
            assert found.total == len(matching)
            again = await store.collections.attempts.query(options, sort, limit, offset)
            assert list(again) == expected
        finally:
            await store.close()

    runner.run(check())


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [-1, 0, 1, 2, 3, 7])
async def test_pages_by_an_index(rows, monkeypatch, order, limit):
    """Pages in the order of an index read no more than themselves; equal values keep their order
    of insertion, also where a page begins or ends among them.
    """
    numbers = [3, 1, 2, 2, 2, 1, 3, 2]
    made = [
        attempt(name=f"{place}", number=number, start_time=float(number))
        for place, number in enumerate(numbers)
    ]
    await rows.attempts.insert(made)
    owners = [rollout(f"r{a.attempt_id}", start_time=a.start_time) for a in made]
    await rows.rollouts.insert(owners)

    async def scan(*_):
        raise AssertionError("a page was looked for among all records")

    for table in (rows.rollouts, rows.attempts):
        monkeypatch.setattr(table, "_candidates", scan)
    owned = {"rollout_id": {"exact": "r"}}
    for offset in range(9):
        end = None if limit == -1 else offset + limit
        sort = {"name": "sequence_id", "order": order}
        page = await rows.attempts.query(owned, sort, limit, offset)
        assert list(page) == sort_records(made, Attempt, sort)[offset:end]
        assert page.total == 8
        for options in (None, {"status": {"exact": "queuing"}}):
            sort = {"name": "start_time", "order": order}
            page = await rows.rollouts.query(options, sort, limit, offset)
            assert list(page) == sort_records(owners, Rollout, sort)[offset:end]
        page = await rows.rollouts.query({"status": {"within": ["queuing"]}}, None, limit, offset)
        assert list(page) == owners[offset:end]
        assert list(await rows.attempts.query(owned, None, limit, offset)) == made[offset:end]


async def test_indexes_follow_their_records(rows):
    """A record that changes is found under its new values only, and a removed one nowhere."""
    await rows.rollouts.insert([rollout("a"), rollout("b")])
    await rows.rollouts.update([rollout("a", status="running", start_time=9.0)])
    queuing = await rows.rollouts.query({"status": {"exact": "queuing"}})
    assert [r.rollout_id for r in queuing] == ["b"]
    running = await rows.rollouts.query({"status": {"exact": "running"}})
    assert [r.rollout_id for r in running] == ["a"]
    newest = await rows.rollouts.get(sort={"name": "start_time", "order": "desc"})
    assert newest.rollout_id == "a"
    await rows.rollouts.delete([rollout("a")])
    assert await rows.rollouts.size() == 1
    for sort in (None, {"name": "start_time", "order": "asc"}):
        assert [r.rollout_id for r in await rows.rollouts.query(sort=sort)] == ["b"]
    assert not await rows.rollouts.query({"status": {"exact": "running"}})


def test_sources():
    """A filter is looked for by keys, then by owner, then by status, then everywhere."""
    exact = {"rollout_id": {"exact": "r"}, "attempt_id": {"within": ["a", "b", "a"]}}
    assert plan.source(ATTEMPTS, exact).keys == ["1:ra", "1:rb"]
    assert plan.source(ROLLOUTS, {"rollout_id": {"exact": "r"}}).keys == ["r"]
    owned = plan.source(SPANS, {"_must": {"rollout_id": {"exact": "r"}}, "name": {"exact": None}})
    assert (owned.indexes, owned.is_complete) == (["spans:of:r"], True)
    assert not plan.source(SPANS, {"rollout_id": {"exact": 1}}).is_complete
    both = {"status": {"exact": "running"}, "mode": {"exact": "val"}}
    found = plan.source(ROLLOUTS, both)
    assert (found.indexes, found.is_complete) == (["rollouts:is:running"], False)
    either = plan.source(ROLLOUTS, {**both, "_aggregate": "or"})
    assert (either.indexes, either.is_complete) == (["rollouts:order"], False)
    assert plan.source(ROLLOUTS, None).is_complete
    many = {"rollout_id": {"within": [str(n) for n in range(20_000)]}}
    assert plan.source(ROLLOUTS, many).keys is None


async def test_scan_passes_over_what_was_removed(rows):
    """A scan goes on behind its cursor, whatever was removed before and around it."""
    await rows.spans.insert(spans(7))
    first = await rows.spans.scan(None, 3)
    assert [span.sequence_id for _, span in first] == [1, 2, 3]
    await rows.spans.delete([span for _, span in first])
    rest = await rows.spans.scan(first[-1][0], 3)
    assert [span.sequence_id for _, span in rest] == [4, 5, 6]
    assert [span.sequence_id for _, span in await rows.spans.scan(rest[-1][0], 3)] == [7]
    await rows.rollout_queue.enqueue(["a", "b", "c"])
    (one,) = await rows.rollout_queue.scan(None, 1)
    assert [value for _, value in await rows.rollout_queue.scan(one[0], 9)] == ["b", "c"]
    with pytest.raises(InvalidRequestError, match="cursor"):
        await rows.spans.scan("x")


async def test_number_without_order_is_refused(rows):
    """A record whose indexed number is NaN is refused as a whole."""
    with pytest.raises(InvalidRequestError, match="start_time"):
        await rows.rollouts.insert([rollout("a"), rollout("b", start_time=float("nan"))])
    assert await rows.rollouts.size() == 0


async def test_integers_of_any_size(rows):
    """An integer that is no float is kept, and comes after all that are."""
    await rows.spans.insert([*spans(1, sequence_id=10**400), *spans(2)])
    sort = {"name": "sequence_id", "order": "asc"}
    found = await rows.spans.query({"rollout_id": {"exact": "r"}}, sort)
    assert [span.sequence_id for span in found] == [1, 2, 10**400]
    await rows.span_sequence_ids.set("r", 10**400)
    assert await rows.span_sequence_ids.get("r") == 10**400


# Blocks.


async def test_block_sees_its_own_writes(rows):
    """Within a block, reads of every kind see what it has written, and others do not."""

    async def block(inner):
        await inner.rollouts.insert([rollout("a"), rollout("b")])
        await inner.rollouts.update([rollout("a", status="failed")])
        await inner.rollouts.delete([rollout("b")])
        await inner.rollout_queue.enqueue(["x", "y"])
        assert await inner.rollout_queue.dequeue() == ["x"]
        assert await inner.rollout_queue.has("y")
        assert not await inner.rollout_queue.has("x")
        assert await inner.rollout_queue.size() == 1
        assert await inner.span_sequence_ids.inc("k", 2) == 2
        assert await inner.span_sequence_ids.size() == 1
        assert await inner.span_sequence_ids.pop("k") == 2
        assert not await inner.span_sequence_ids.has("k")
        assert await inner.rollouts.size() == 1
        assert [r.status for r in await inner.rollouts.query()] == ["failed"]
        with pytest.raises(DuplicatedPrimaryKeyError):
            await inner.rollouts.insert([rollout("a")])
        assert await rows.rollouts.size() == 0
        assert await rows.rollout_queue.size() == 0

    await rows.execute(block)
    assert await rows.rollouts.size() == 1
    assert await rows.rollout_queue.peek(5) == ["y"]


async def test_failed_block_leaves_nothing(rows):
    """A block that raises has written nothing."""
    with pytest.raises(RuntimeError, match="stop"):
        async with rows.atomic() as inner:
            await inner.rollouts.insert([rollout("a")])
            await inner.events.append([StoreEvent(seq=0, kind="worker_updated", time=0.0)])
            async with inner.atomic() as nested:
                assert await nested.rollouts.size() == 1
            raise RuntimeError("stop")
    assert await rows.rollouts.size() == 0
    assert await rows.events.last_seq() == 0


READS = {
    "record": lambda rows: rows.rollouts.get({"rollout_id": {"exact": "a"}}),
    "absence": lambda rows: rows.rollouts.get({"rollout_id": {"exact": "b"}}),
    "listing": lambda rows: rows.rollouts.query({"status": {"exact": "queuing"}}),
    "latest attempt": lambda rows: rows.find_latest_attempts(["a"]),
    "counter": lambda rows: rows.span_sequence_ids.get("a"),
    "queue": lambda rows: rows.rollout_queue.peek(),
    "membership": lambda rows: rows.rollout_queue.has("b"),
    "newest resources": lambda rows: rows.find_newest_resources(),
    "reply": lambda rows: rows.find_reply("key"),
    "spans": lambda rows: rows.find_known_spans("a", "a", ["s"]),
}


async def change_everything(rows):
    from agentlightning.types import ResourcesUpdate

    span = Span.from_attributes(attributes={}, rollout_id="a", attempt_id="a", span_id="s")
    resources = ResourcesUpdate(
        resources_id="n", create_time=1.0, update_time=1.0, version=1, resources={}
    )

    async def block(inner):
        await inner.find_rollouts(["a"])
        await inner.apply(
            Changes(
                new_rollouts={"b": rollout("b")},
                rollouts={"a": rollout("a", mode="val")},
                new_attempts={("a", "x"): attempt("a", "x")},
                new_spans=[span],
                sequence_ids={"a": 7},
                resources=[resources],
                queued={"b": None},
                reply=Reply("key", 1.0, [["a", 1]]),
            )
        )

    await rows.execute(block)


@pytest.mark.parametrize("kind", READS)
async def test_whatever_was_read_must_still_hold(rows, kind):
    """A block whose reads are overtaken writes nothing: `atomic` says so, `execute` starts over."""
    await rows.rollouts.insert([rollout("a")])
    await rows.rollout_queue.enqueue(["a"])
    overtaken = rows.atomic()
    with pytest.raises(ConflictError, match="execute"):
        async with overtaken as inner:
            await READS[kind](inner)
            await inner.span_sequence_ids.set("mine", 1)
            await change_everything(rows)
    assert await rows.span_sequence_ids.get("mine") is None


async def test_overtaken_block_runs_again(rows):
    """`execute` runs a block again, from the start, until nothing has overtaken it."""
    runs = 0

    async def block(inner):
        nonlocal runs
        runs += 1
        count = await inner.span_sequence_ids.get("k", 0)
        if runs <= 3:
            await rows.span_sequence_ids.inc("k", 1)
        await inner.span_sequence_ids.set("k", count + 10)
        return count

    assert await rows.execute(block) == 3
    assert runs == 4
    assert await rows.span_sequence_ids.get("k") == 13


async def test_block_that_is_always_overtaken(rows, monkeypatch):
    """A block that never gets through ends with an error that says what keeps changing."""
    monkeypatch.setattr(database, "_CONFLICT_SECONDS", 0.0)

    async def block(inner):
        await inner.span_sequence_ids.inc("k", 1)
        await rows.span_sequence_ids.inc("k", 1)

    with pytest.raises(StoreUnavailableError, match="K k"):
        await rows.execute(block)


async def test_reading_block_is_not_checked(rows):
    """A block that only reads never conflicts."""
    async with rows.atomic(mode="r") as inner:
        assert await inner.span_sequence_ids.get("k") is None
        await rows.span_sequence_ids.inc("k", 1)


async def test_new_records_are_new(rows):
    """Changes that insert what is there are refused by name, and nothing is written."""
    await rows.rollouts.insert([rollout("a")])

    async def block(inner):
        await inner.apply(
            Changes(new_rollouts={"b": rollout("b"), "a": rollout("a")}, queued={"b": None})
        )

    with pytest.raises(DuplicatedPrimaryKeyError, match="'a'"):
        await rows.execute(block)
    assert await rows.rollouts.size() == 1
    assert await rows.rollout_queue.size() == 0


async def test_replies_are_kept(rows):
    """A reply comes back as it was kept."""
    await rows.rollouts.insert([rollout("a")])
    await change_everything(rows)

    async def block(inner):
        return await inner.find_reply("key"), await inner.find_reply("none")

    reply, none = await rows.execute(block)
    assert reply == Reply("key", 1.0, [["a", 1]])
    assert none is None


async def test_removed_rollouts_leave_nothing(rows, server, store):
    """Removing rollouts takes their attempts, spans and counters along, and tells of the spans."""
    await rows.rollouts.insert([rollout("r"), rollout("other")])
    await rows.attempts.insert([attempt("r"), attempt("other")])
    await rows.spans.insert(spans(3))
    await rows.span_sequence_ids.set("r", 3)

    async def sizes(inner):
        return await inner.find_span_bytes(["r", "other"])

    measured = await rows.execute(sizes, mode="r")
    assert measured["r"] > 300
    assert measured["other"] == 0

    def remove(*, spans_only):
        async def block(inner):
            return await inner.remove(["r"], spans_only=spans_only)

        return block

    assert await rows.execute(remove(spans_only=True)) == 3
    assert await rows.spans.size() == 0
    assert await rows.rollouts.size() == 2
    await rows.spans.insert(spans(2))
    assert await rows.execute(remove(spans_only=False)) == 2
    assert [r.rollout_id for r in await rows.rollouts.query()] == ["other"]
    assert [a.rollout_id for a in await rows.attempts.query()] == ["other"]
    assert await rows.span_sequence_ids.get("r") is None
    with server.client() as client:
        assert not client.keys(f"{{{store.prefix}}}*:of:r")


# Claims.


async def test_claims_keep_out_of_each_others_way(rows):
    """Blocks that look for work at once are given different ids; what they leave is free again."""
    await rows.rollouts.insert([rollout(name) for name in "abc"])
    await rows.rollout_queue.enqueue(["a", "b", "c"])
    async with rows.atomic() as one, rows.atomic() as other, rows.atomic() as third:
        assert await one.find_queued(2) == ["a", "b"]
        assert await other.find_queued(2) == ["c"]
        # With nothing free left, whoever commits first has it.
        assert await third.find_queued(1) == ["a"]
        await other.apply(Changes(unqueued=["c"]))
    assert await rows.rollout_queue.peek(5) == ["a", "b"]
    async with rows.atomic() as later:
        assert await later.find_queued(5) == ["a", "b"]
        assert await later.find_queued(5, 1) == ["b"]
    async with rows.atomic(mode="r") as reader:
        assert await reader.find_queued(1, 1) == ["b"]


async def test_who_commits_first_has_it(rows):
    """Of two blocks that take the same id, one is told to start over."""
    await rows.rollout_queue.enqueue(["a"])
    with pytest.raises(ConflictError):
        async with rows.atomic() as slow:
            assert await slow.find_queued(1) == ["a"]
            async with rows.atomic() as fast:
                assert await fast.find_queued(1) == ["a"]
                await fast.apply(Changes(unqueued=["a"]))
            await slow.apply(Changes(unqueued=["a"]))
    assert await rows.rollout_queue.size() == 0


async def test_claims_by_metadata(rows):
    """Only matching ids are given and reserved; the others stay free, in their order."""
    await rows.rollouts.insert([rollout(str(n), metadata={"m": n % 2}) for n in range(6)])
    await rows.rollout_queue.enqueue([str(n) for n in range(6)])
    async with rows.atomic() as odd, rows.atomic() as others:
        assert await odd.find_queued(2, metadata={"m": 1}) == ["1", "3"]
        assert await odd.find_queued(2, 2, metadata={"m": 1}) == ["5"]
        assert await others.find_queued(2, metadata={"m": 1}) == ["1", "3"]
        async with rows.atomic() as rest:
            assert await rest.find_queued(5) == ["0", "2", "4"]
        await odd.apply(Changes(unqueued=["1", "3", "5"]))
    assert await rows.rollout_queue.peek(9) == ["0", "2", "4"]
    async with rows.atomic(mode="r") as reader:
        assert await reader.find_queued(9, metadata={"m": 0}) == ["0", "2", "4"]


# The journal, and the end.


async def test_journal_prunes(rows, monkeypatch):
    """Old events are dropped, and asking for them is an error."""
    from agentlightning.store.collections.redis import session

    monkeypatch.setattr(session, "KEPT_EVENTS", 10)
    for _ in range(50):
        events = [StoreEvent(seq=0, kind="worker_updated", time=0.0) for _ in range(9)]
        await rows.events.append(events)
    assert events[-1].seq == await rows.events.last_seq() == 450
    assert [e.seq for e in await rows.events.read(448)] == [449, 450]
    assert len(await rows.events.read(440)) == 10
    assert await rows.events.read(450) == []
    with pytest.raises(ConflictError, match="no longer kept"):
        await rows.events.read(3)
    assert program.KEPT_EVENTS == 200_000


async def test_cancellation_at_the_commit(rows):
    """A caller who is cancelled while the commit is on its way learns that it happened."""
    outcomes = set()
    for turn in range(40):
        task = asyncio.create_task(rows.span_sequence_ids.set(f"{turn}", 1))
        for _ in range(turn % 8):
            await asyncio.sleep(0.0002)
        task.cancel()
        try:
            await task
            outcomes.add("done")
        except CommittedThenCancelledError:
            outcomes.add("committed")
            assert await rows.span_sequence_ids.get(f"{turn}") == 1
        except asyncio.CancelledError:
            outcomes.add("undone")
            assert await rows.span_sequence_ids.get(f"{turn}") is None
    assert "undone" in outcomes


def test_store_that_nobody_closed_ends_its_thread(server):
    """Dropping the last reference to a store ends its thread."""
    with new_threads() as started:
        store = RedisLightningStore(server.url(uuid.uuid4().hex))
        asyncio.run(store.enqueue_rollout(1))
        threads = started("agentlightning-")
    assert "agentlightning-redis" in {thread.name for thread in threads}
    del store
    for _ in range(3000):
        gc.collect()
        if not any(thread.is_alive() for thread in threads):
            break
        threads[0].join(0.01)
    assert not any(thread.is_alive() for thread in threads)
