"""Measured collections when things go wrong; when they go right, see `tests/store/test_tracking.py`."""

import pytest

from agentlightning.store.collections.changes import Changes
from agentlightning.store.collections.memory import InMemoryLightningCollections
from agentlightning.store.collections.metered import metered
from agentlightning.store.tracking import register_metrics
from agentlightning.types import Rollout
from tests.store.test_tracking import Notebook

OPEN = Rollout(rollout_id="r", input=1, start_time=1.0)
ENDED = OPEN.model_copy(update={"status": "failed", "end_time": 3.0})


async def make() -> tuple[InMemoryLightningCollections, Notebook]:
    inner, notebook = InMemoryLightningCollections(), Notebook()
    register_metrics(notebook)
    await inner.rollouts.insert([OPEN])
    return inner, notebook


async def test_a_block_that_fails_ends_no_rollout():
    """Its operations are counted, the end that never came is not, and the error comes out."""
    inner, notebook = await make()

    async def fails(rows) -> None:
        await rows.find_rollouts(["r"])
        await rows.apply(Changes(rollouts={"r": ENDED}))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await metered(inner, notebook).execute(fails)
    assert notebook.of("agl.rollouts.total") == []
    operations = [labels["operation"] for labels in notebook.of("agl.collections.total")]
    assert operations == ["find_rollouts", "apply"]


async def test_an_operation_that_fails_has_its_error_as_status():
    """The name of the exception's class is the label."""
    inner, notebook = await make()

    async def again(rows) -> None:
        await rows.rollouts.insert([OPEN])

    with pytest.raises(ValueError, match="there already"):
        await metered(inner, notebook).execute(again)
    (labels,) = notebook.of("agl.collections.total")
    assert (labels["collection"], labels["status"]) == ("rollouts", "DuplicatedPrimaryKeyError")
    assert labels["store_pubmeth"] == "background"


async def test_a_rollout_that_had_ended_before_is_not_counted_again():
    """Only the step that ends it counts."""
    inner, notebook = await make()

    async def end(rows) -> None:
        await rows.find_rollouts(["r"])
        await rows.apply(Changes(rollouts={"r": ENDED}))

    collections = metered(inner, notebook)
    await collections.execute(end)
    await collections.execute(end)
    assert notebook.of("agl.rollouts.total") == [{"status": "failed", "mode": "none"}]
    (duration,) = [v for name, v, _ in notebook.written if name == "agl.rollouts.duration"]
    assert duration == 2.0
