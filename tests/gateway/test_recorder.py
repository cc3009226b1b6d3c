"""Storing records: together where they come together, and each with its own end."""

import asyncio
from collections.abc import Sequence

import pytest

from agentlightning.errors import NotFoundError, StoreUnavailableError
from agentlightning.gateway.recorder import CallRecorder, GatewayStats
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.types import Span
from agentlightning.types.call import CallRecord


class BusyStore(InMemoryLightningStore):
    """Takes its time, and notes how many spans come at once."""

    def __init__(self, *, failing: bool = False) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.failing = failing

    async def add_span(self, span: Span) -> Span | None:
        await self._busy(1)
        return await super().add_span(span)

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if len(spans) > 1:
            await self._busy(len(spans))
        return await super().add_many_spans(spans)

    async def _busy(self, size: int) -> None:
        self.sizes.append(size)
        await asyncio.sleep(0.01)
        if self.failing:
            raise OSError("disk full")


async def recorder_and_record(
    store: InMemoryLightningStore,
) -> tuple[CallRecorder, GatewayStats, CallRecord]:
    rollout = await store.start_rollout(input=1)
    stats = GatewayStats()
    record = CallRecord(
        call_id="ca-0",
        rollout_id=rollout.rollout_id,
        attempt_id=rollout.attempt.attempt_id,
        start_time=1.0,
        end_time=2.0,
    )
    return CallRecorder(store, stats, 5.0), stats, record


def numbered(record: CallRecord, number: int, **changes: str) -> CallRecord:
    return record.model_copy(update={"call_id": f"ca-{number:016x}", **changes})


async def test_records_that_come_together_are_stored_together() -> None:
    """Each writer returns only when its record is there; the store is asked less often."""
    store = BusyStore()
    recorder, stats, record = await recorder_and_record(store)

    async def write(number: int) -> None:
        own = numbered(record, number)
        await recorder.write(own)
        spans = await store.query_spans(record.rollout_id)
        assert own.call_id.removeprefix("ca-") in {span.span_id for span in spans}

    await asyncio.gather(*(write(number) for number in range(200)))
    assert stats.recorded == sum(store.sizes) == 200
    assert len(store.sizes) <= 10
    assert max(store.sizes) <= 64
    await store.close()


class SmallStore(BusyStore):
    """Refuses what is too large, as a server with a limit for bodies does."""

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        if len(spans) > 3:
            raise ValueError("too large")
        return await super().add_many_spans(spans)


async def test_records_too_large_together_are_stored_apart() -> None:
    """A batch that the store refuses as a whole goes to it record by record."""
    store = SmallStore()
    recorder, stats, record = await recorder_and_record(store)
    await asyncio.gather(*(recorder.write(numbered(record, number)) for number in range(50)))
    assert (stats.recorded, stats.unrecorded) == (50, 0)
    assert len(await store.query_spans(record.rollout_id)) == 50
    await store.close()


async def test_an_unknown_attempt_costs_only_its_own_record() -> None:
    """What the store refuses is refused alone, although it came with others."""
    store = BusyStore()
    recorder, stats, record = await recorder_and_record(store)
    changes = [{}, {}, {}, {"attempt_id": "at-unknown"}, {}]
    writes = [recorder.write(numbered(record, n, **each)) for n, each in enumerate(changes)]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(each) for each in ended] == [type(None)] * 3 + [NotFoundError, type(None)]
    assert (stats.recorded, stats.unrecorded) == (4, 1)
    assert len(await store.query_spans(record.rollout_id)) == 4
    await store.close()


async def test_a_store_that_fails_withholds_every_answer() -> None:
    """All that were written together are told to come again."""
    store = BusyStore(failing=True)
    recorder, stats, record = await recorder_and_record(store)
    writes = [recorder.write(numbered(record, number)) for number in range(5)]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(each) for each in ended} == {StoreUnavailableError}
    assert (stats.recorded, stats.unrecorded) == (0, 5)
    await store.close()


async def test_a_cancelled_writer_still_has_its_record_stored() -> None:
    """A client that leaves takes nothing along; whoever waits for the writer sees it end after."""
    store = BusyStore()
    recorder, _, record = await recorder_and_record(store)
    writing = asyncio.create_task(recorder.write(record))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert len(await store.query_spans(record.rollout_id)) == 1
    await store.close()


def test_a_loop_that_ends_leaves_nobody_waiting() -> None:
    """Records that were not written are cancelled with the loop, which then ends."""

    class Stuck(BusyStore):
        async def _busy(self, size: int) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        recorder, _, record = await recorder_and_record(Stuck())
        for number in range(100):
            task = asyncio.create_task(recorder.write(numbered(record, number)))
            tasks.append(task)
        await asyncio.sleep(0.01)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(main())
    assert all(task.cancelled() for task in tasks)


async def test_counts_add_up() -> None:
    """The counts of several processes become one."""
    total = GatewayStats(recorded=1, replayed=2)
    total.add(GatewayStats(recorded=3, unrecorded=4))
    assert total == GatewayStats(recorded=4, unrecorded=4, replayed=2)


@pytest.mark.parametrize("turns", range(6))
async def test_a_record_that_comes_as_the_writers_stop_is_stored(turns: int) -> None:
    """Whenever a record comes, somebody still looks for it: in each turn of the loop that follows
    the writing of two others, also in the one in which both writers found nothing more to do."""
    store = InMemoryLightningStore()
    recorder, stats, record = await recorder_and_record(store)

    async def write_later() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await recorder.write(numbered(record, 3))

    first = [recorder.write(numbered(record, number)) for number in (1, 2)]
    writes = [asyncio.create_task(write) for write in (*first, write_later())]
    _, forgotten = await asyncio.wait(writes, timeout=5)
    # One more record brings a writer, so that a failure of this test does not hang.
    await recorder.write(numbered(record, 4))
    assert not forgotten
    assert stats.recorded == 4
    await store.close()
