"""The baseline: every task once per epoch, and what it logs of it."""

import asyncio
import logging

import pytest

import agentlightning as agl
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.algorithm.fast import Baseline, FastAlgorithm
from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy import LLMProxy
from agentlightning.types import PromptTemplate
from tests.algorithm.working import working

RESOURCES = {"greeting": PromptTemplate(template="hello", engine="f-string")}


class Greeter(agl.LitAgent):
    """Notes what it gets; fails at the task `bad`."""

    def __init__(self):
        super().__init__()
        self.seen = []

    async def rollout_async(self, task, resources, rollout):
        self.seen.append((task, rollout.mode, dict(resources)))
        if task == "bad":
            raise ValueError("bad task")
        return 0.5


@pytest.fixture
def log(caplog):
    """What the baseline logged: `log(message)` lists the records."""
    caplog.set_level(logging.INFO, "agentlightning.algorithm.fast")
    return lambda message: [each for each in caplog.records if each.message == message]


async def run(store, baseline, *datasets, agent=None, adapter=None):
    """Run the baseline beside a runner and return the agent."""
    agent = agent or Greeter()
    baseline.set_store(store)
    if adapter is not None:
        baseline.set_adapter(adapter)
    async with asyncio.timeout(20), working(store, agent, concurrency=1):
        await baseline.run(*datasets)
    return agent


async def test_train_tasks_come_before_validation_tasks_in_each_epoch(store):
    """Each task runs once per epoch, in order, in the mode of its dataset."""
    agent = await run(store, Baseline(n_epochs=2), ["a", "b"], ["x"])
    once = [("a", "train"), ("b", "train"), ("x", "val")]
    assert [(task, mode) for task, mode, _ in agent.seen] == once * 2


async def test_initial_resources_are_published_as_default(store):
    """Rollouts run with the resources that the user started with."""
    baseline = Baseline()
    baseline.set_initial_resources(RESOURCES)
    agent = await run(store, baseline, ["a"])
    assert agent.seen[0][2] == RESOURCES
    assert (await store.get_resources_by_id("default")).resources == RESOURCES


@pytest.mark.parametrize("datasets", [(), ([], None), (None, ["x"])])
async def test_datasets_are_optional(store, datasets):
    """Without tasks it returns at once."""
    agent = await run(store, Baseline(), *datasets)
    assert [task for task, _, _ in agent.seen] == (
        ["x"] if len(datasets) > 1 and datasets[1] else []
    )


async def test_the_queue_is_never_longer_than_asked(store):
    """New tasks are enqueued as earlier ones are claimed or end, not all at once."""
    longest = 0
    waiting = set()

    async def watch():
        nonlocal longest
        async for event in store.subscribe():
            if event.status in {"queuing", "requeuing"}:
                waiting.add(event.rollout_id)
            elif event.status is not None:
                waiting.discard(event.rollout_id)
            longest = max(longest, len(waiting))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    agent = await run(store, Baseline(max_queue_length=2, polling_interval=0.01), list("abcdefgh"))
    watching.cancel()
    assert len(agent.seen) == 8
    assert longest == 2


async def test_failures_are_logged_and_end_nothing(store, log):
    """A failed rollout is a line in the log; the next task runs."""
    agent = await run(store, Baseline(), ["bad", "good"])
    assert len(agent.seen) == 2
    statuses = [record.rollout_status for record in log("rollout ended")]
    assert sorted(statuses) == ["failed", "succeeded"]
    assert sorted(record.attempt_status for record in log("attempt ended")) == statuses


@pytest.mark.parametrize("verbosity", ["keys", "key_values", "none"])
async def test_spans_are_logged_as_verbosely_as_asked(store, log, verbosity):
    """Attribute keys, whole attributes, or nothing."""
    await run(store, Baseline(span_verbosity=verbosity), ["a"])
    shown = [record.span_attributes for record in log("span")]
    if verbosity == "none":
        assert shown == []
        return
    (attributes,) = shown
    assert "agentlightning.reward.0.value" in attributes
    assert isinstance(attributes, dict if verbosity == "key_values" else list)


async def test_every_attempt_is_logged_with_its_own_spans(store, log):
    """Spans of one attempt are not counted for another one."""
    agent = Greeter()
    baseline = Baseline()
    await run(store, baseline, ["a", "b", "c"], agent=agent)
    assert [record.spans for record in log("attempt ended")] == [1, 1, 1]


async def test_the_adapter_shows_what_training_would_see(store, log):
    """With an adapter, its data is logged once per rollout."""
    adapter = TracerTraceToTriplet()
    await run(store, Baseline(), ["a", "b"], adapter=adapter)
    assert len(log("adapted data")) == 2


async def test_a_proxy_runs_as_long_as_the_baseline(store):
    """The proxy is started for the run and stopped after it."""
    proxy = LLMProxy(
        port=0,
        launch_mode="thread",
        model_list=[
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1"},
            }
        ],
        store=store,
    )
    running = []

    class Asking(Greeter):
        async def rollout_async(self, task, resources, rollout):
            running.append(proxy.is_running())
            return 0.0

    baseline = Baseline()
    baseline.set_llm_proxy(proxy)
    await run(store, baseline, ["a"], agent=Asking())
    assert running == [True]
    assert not proxy.is_running()


@pytest.mark.parametrize("train_split", [0.0, 1.0, -1.0])
def test_the_split_is_checked_as_in_0_3_0(train_split):
    """It has no effect, but programs that pass nonsense are told."""
    with pytest.raises(ConfigurationError, match="train_split"):
        Baseline(train_split=train_split)


def test_the_baseline_is_fast():
    """`Trainer.dev` may use it."""
    assert isinstance(Baseline(), FastAlgorithm)
    assert Baseline().is_async()
