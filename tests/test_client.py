"""The v0.1 client and its stand-in without a server."""

import pytest

from agentlightning.client import AgentLightningClient, DevTaskLoader
from agentlightning.errors import NotFoundError
from agentlightning.types import PromptTemplate, RolloutLegacy, Task

RESOURCES = {"prompt": PromptTemplate(template="x", engine="f-string")}


def test_loader_serves_tasks_in_a_circle():
    """Tasks come round again, each time under an id of their own."""
    loader = DevTaskLoader(["a", "b"], RESOURCES)
    tasks = [loader.poll_next_task() for _ in range(3)]
    assert [task.input for task in tasks] == ["a", "b", "a"]
    assert len({task.rollout_id for task in tasks}) == 3
    assert loader.task_count == 3


async def test_loader_answers_the_async_calls():
    """Every coroutine of the client works without a server."""
    loader = DevTaskLoader([Task(rollout_id="own", input=1)], RESOURCES)
    task = await loader.poll_next_task_async()
    assert task.rollout_id == "own"
    latest = await loader.get_latest_resources_async()
    assert latest is not None
    assert latest.resources == RESOURCES
    assert await loader.get_resources_by_id_async(latest.resources_id) == latest
    await loader.post_rollout_async(RolloutLegacy(rollout_id="own", final_reward=1.0))
    assert [rollout.final_reward for rollout in loader.rollouts] == [1.0]


def test_loader_refuses_what_it_does_not_have():
    """No tasks and unknown resources raise errors that say so."""
    with pytest.raises(ValueError, match="at least one task"):
        DevTaskLoader([], RESOURCES)
    with pytest.raises(NotFoundError, match="'other'"):
        DevTaskLoader([1], RESOURCES).get_resources_by_id("other")


def test_server_that_is_away_gives_none(caplog: pytest.LogCaptureFixture):
    """A request that cannot be made returns None and is logged."""
    client = AgentLightningClient("http://127.0.0.1:1", timeout=2.0)
    assert client.get_latest_resources() is None
    assert "task server request failed" in caplog.text
