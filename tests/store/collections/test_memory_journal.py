"""The event journal in memory."""

import enum
import gc

import pytest

from agentlightning.errors import ConflictError
from agentlightning.store.collections import MemoryJournal
from agentlightning.types import StoreEvent


class Level(enum.IntEnum):
    HIGH = 3


def event(**data) -> StoreEvent:
    return StoreEvent(seq=0, kind="rollout_updated", time=1.5, rollout_id="ro-1", data=data)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"a": "ü", "b": 1, "c": 1.0, "d": True, "e": None, "f": float("inf")},
        {"nested": {"list": [1, 2.0]}},
        {"foreign": Level.HIGH},
        {"bytes_like": bytearray(b"a")},
    ],
)
async def test_data_comes_back_as_it_was(metadata):
    """What an event says is read as it was written, types included."""
    journal = MemoryJournal()
    await journal.append([event(mode="train", metadata=metadata)])
    (found,) = await journal.read(0)
    assert found.seq == 1
    assert repr(found) == repr(event(mode="train", metadata=metadata).model_copy(update={"seq": 1}))


async def test_events_read_from_anywhere():
    """Reading starts after any event that is kept, and is refused before the oldest."""
    journal = MemoryJournal(kept=5)
    await journal.append([event(count=number) for number in range(1, 9)])
    assert [each.data["count"] for each in await journal.read(3)] == [4, 5, 6, 7, 8]
    assert [each.seq for each in await journal.read(6, limit=1)] == [7]
    assert await journal.read(8) == []
    assert await journal.last_seq() == 8
    with pytest.raises(ConflictError, match="3 to 3"):
        await journal.read(2)


async def test_collector_has_nothing_to_look_through():
    """Kept events of plain values leave the garbage collector no work."""
    journal = MemoryJournal()
    gc.collect()
    before = len(gc.get_objects())
    await journal.append([event(mode=None, metadata={"run": "a"}) for _ in range(1000)])
    gc.collect()
    assert len(gc.get_objects()) - before < 100
