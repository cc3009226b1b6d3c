"""The v0.1 task server, driven by its own client over a real port."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentlightning.client import AgentLightningClient
from agentlightning.errors import ConfigurationError
from agentlightning.server import AgentLightningServer
from agentlightning.types import PromptTemplate, RolloutLegacy

RESOURCES = {"prompt": PromptTemplate(template="x", engine="f-string")}


@pytest.fixture
async def server() -> AsyncGenerator[AgentLightningServer, None]:
    server = AgentLightningServer(port=0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def client(server: AgentLightningServer) -> AgentLightningClient:
    return AgentLightningClient(server.endpoint, poll_interval=0.01)


async def test_task_travels_to_the_agent_and_its_result_back(
    server: AgentLightningServer, client: AgentLightningClient
):
    """A queued task is polled once, and its result can be taken out once."""
    rollout_id = await server.queue_task({"q": 1}, mode="train", metadata={"k": "v"})
    task = await client.poll_next_task_async()
    assert task is not None
    assert (task.rollout_id, task.input, task.mode) == (rollout_id, {"q": 1}, "train")
    assert task.num_claims == 1
    reply = await client.post_rollout_async(RolloutLegacy(rollout_id=rollout_id, final_reward=0.5))
    assert reply is not None
    assert reply["status"] == "ok"
    result = await server.poll_completed_rollout(rollout_id, timeout=5.0)
    assert result is not None
    assert result.final_reward == 0.5
    assert await server.get_completed_rollout(rollout_id) is None


async def test_waiting_agent_gets_a_task_queued_later(
    server: AgentLightningServer, client: AgentLightningClient
):
    """A poll that finds nothing goes on until something is queued."""
    polling = asyncio.create_task(client.poll_next_task_async())
    await asyncio.sleep(0.05)
    rollout_id = await server.queue_task(1)
    task = await asyncio.wait_for(polling, 10.0)
    assert task is not None
    assert task.rollout_id == rollout_id


async def test_resources_are_served_by_id_and_as_latest(
    server: AgentLightningServer, client: AgentLightningClient
):
    """The newest resources are `latest`, older ones stay, unknown ones are None."""
    assert await client.get_latest_resources_async() is None
    first = await server.update_resources(RESOURCES)
    second = await server.update_resources(RESOURCES)
    latest = await client.get_latest_resources_async()
    assert latest is not None
    assert latest.resources_id == second
    assert latest.resources == RESOURCES
    older = await client.get_resources_by_id_async(first)
    assert older is not None
    assert older.resources_id == first
    assert await client.get_resources_by_id_async("no/such id") is None


async def test_timed_out_task_is_handed_out_again_until_its_result_comes():
    """A task without a result in time is claimed again; a late result ends that."""
    server = AgentLightningServer(port=0, task_timeout_seconds=0.0)
    await server.start()
    client = AgentLightningClient(server.endpoint, poll_interval=0.01)
    await server.queue_task(1)
    first = await client.poll_next_task_async()
    second = await client.poll_next_task_async()
    assert first is not None
    assert second is not None
    assert first.rollout_id == second.rollout_id
    assert second.num_claims == 2
    await client.post_rollout_async(RolloutLegacy(rollout_id=first.rollout_id))
    await client.post_rollout_async(RolloutLegacy(rollout_id=first.rollout_id, final_reward=1.0))
    results = await server.retrieve_completed_rollouts()
    assert [result.final_reward for result in results] == [1.0]
    assert await server.retrieve_completed_rollouts() == []
    await server.stop()


async def test_result_that_does_not_come_is_none_after_the_timeout(server: AgentLightningServer):
    """Waiting for a result ends with None."""
    assert await server.poll_completed_rollout("unknown", timeout=0.01) is None


async def test_sync_calls_work_from_another_thread(
    server: AgentLightningServer, client: AgentLightningClient
):
    """The blocking twins do what the coroutines do."""
    await server.update_resources(RESOURCES)
    rollout_id = await server.queue_task(1)

    def agent() -> str:
        task = client.poll_next_task()
        latest = client.get_latest_resources()
        assert task is not None
        assert latest is not None
        assert client.get_resources_by_id(latest.resources_id) == latest
        client.post_rollout(RolloutLegacy(rollout_id=task.rollout_id))
        return task.rollout_id

    assert await asyncio.to_thread(agent) == rollout_id
    assert await server.get_completed_rollout(rollout_id) is not None


async def test_taken_port_is_an_error_of_the_caller(server: AgentLightningServer):
    """Starting on a port in use raises, and the process goes on."""
    with pytest.raises(ConfigurationError):
        await AgentLightningServer(port=server.port).start()


async def test_server_starts_again_after_it_stopped():
    """Stop and start keep the queue."""
    server = AgentLightningServer(port=0)
    await server.start()
    assert server.startup_event.is_set()
    await server.queue_task(1)
    await server.stop()
    assert not server.startup_event.is_set()
    await server.start()
    task = await AgentLightningClient(server.endpoint).poll_next_task_async()
    await server.stop()
    assert task is not None
