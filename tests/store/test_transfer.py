"""Copies that go wrong; how copies go right is in the conformance suite of every store."""

import json
from collections.abc import Sequence

import pytest

from agentlightning.errors import StoreError
from agentlightning.store.base import LightningStore
from agentlightning.store.check import check_store
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.transfer import copy_store
from tests.conformance.store_upkeep import populate


class Careless(InMemoryLightningStore):
    """A target that does something to what it is given."""

    def __init__(self, kind: str, change):
        super().__init__()
        self.kind, self.change = kind, change

    async def import_records(self, kind: str, records: Sequence[str]) -> int:
        return await super().import_records(
            kind, self.change(records) if kind == self.kind else records
        )


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("spans", lambda records: records[:-1], "6 instead of 7"),
        ("rollouts", lambda records: records[::-1], "content or order differs"),
        (
            "attempts",
            lambda records: [text.replace('"ok"', '"no"') for text in records],
            "content or order differs",
        ),
        ("queue", lambda records: records[::-1], "content or order differs"),
    ],
)
async def test_a_wrong_copy_is_noticed(kind, change, message):
    """What is missing, changed or in another order is found, and the target stays marked."""
    source, target = InMemoryLightningStore(), Careless(kind, change)
    await populate(source)
    with pytest.raises(StoreError, match=message):
        await copy_store(source, target)
    assert "unfinished_copy" in {f.code for f in (await check_store(target)).findings}


async def test_a_wrong_merge_is_noticed():
    """Every record of the source must be in a merged target, as it is."""
    source = InMemoryLightningStore()
    target = Careless("spans", lambda records: records[1:])
    await populate(source)
    await target.enqueue_rollout("own")
    with pytest.raises(StoreError, match="1 of 7 are missing or differ"):
        await copy_store(source, target, merge=True)


async def test_large_records_make_short_pages():
    """A page ends after some megabytes, and the next one goes on there."""
    store = InMemoryLightningStore()
    for index in range(5):
        await store.enqueue_rollout(str(index) * 3_000_000)
    seen: list[int] = []
    sizes: list[int] = []
    after: str | None = None
    while True:
        page = await store.export_records("rollouts", after=after)
        seen += [int(json.loads(text)["input"][0]) for text in page.records]
        sizes.append(len(page.records))
        if page.next is None:
            break
        after = page.next
    assert seen == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 1]


async def test_a_store_that_cannot_says_so():
    """A store of somebody's own without these methods gives a sentence, not a riddle."""
    with pytest.raises(NotImplementedError, match="does not export"):
        await copy_store(LightningStore(), InMemoryLightningStore())
