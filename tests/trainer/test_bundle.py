"""The two sides that a strategy runs."""

import asyncio
import pickle

import pytest

import agentlightning as agl
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.algorithm import Algorithm
from agentlightning.errors import ConfigurationError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.tracer.otel import OtelTracer
from agentlightning.trainer.bundle import AlgorithmSide, RunnerSide
from agentlightning.types import Hook, PromptTemplate

RESOURCES = {"greeting": PromptTemplate(template="hello", engine="f-string")}


@pytest.fixture
async def store():
    store = InMemoryLightningStore(thread_safe=True)
    yield store
    await store.close()


class Noting(Algorithm):
    """Keeps what it was given when it runs."""

    async def run(self, train_dataset=None, val_dataset=None):
        self.seen = (
            self.get_store(),
            self.get_adapter(),
            self.get_llm_proxy(),
            self.get_initial_resources(),
            train_dataset,
            val_dataset,
        )


class Echo(LitAgent):
    """Rewards with the task."""

    async def rollout_async(self, task, resources, rollout):
        return float(task)


def side(algorithm, **parts):
    fields = {
        "adapter": TracerTraceToTriplet(),
        "llm_proxy": None,
        "initial_resources": None,
        "train_dataset": None,
        "val_dataset": None,
    }
    return AlgorithmSide(algorithm=algorithm, **fields | parts)


async def test_the_algorithm_gets_every_part(store):
    """Store, adapter, proxy, resources and datasets are set when `run` begins."""
    algorithm, adapter, proxy = Noting(), TracerTraceToTriplet(), LLMProxy(port=0)
    whole = side(
        algorithm,
        adapter=adapter,
        llm_proxy=proxy,
        initial_resources=RESOURCES,
        train_dataset=[1],
        val_dataset=[2],
    )
    await whole(store, ThreadingEvent())
    assert algorithm.seen == (store, adapter, proxy, RESOURCES, [1], [2])
    assert proxy.get_store() is store


async def test_missing_parts_stay_missing(store):
    """No proxy is None; resources that the algorithm brought itself are kept."""
    algorithm = Noting()
    algorithm.set_initial_resources(RESOURCES)
    await side(algorithm)(store, ThreadingEvent())
    assert algorithm.seen[2:] == (None, RESOURCES, None, None)


async def test_a_blocking_algorithm_leaves_the_loop_free(store):
    """A plain `run` runs in a thread, so that whatever lives in this loop goes on."""
    free = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Blocking(Algorithm):
        def run(self, train_dataset=None, val_dataset=None):
            asyncio.run_coroutine_threadsafe(self.touch(), loop).result(10)

        async def touch(self):
            free.set()

    await side(Blocking())(store, ThreadingEvent())
    assert free.is_set()


async def test_a_plain_run_may_return_a_coroutine(store):
    """What a plain `run` returns to be awaited is awaited."""
    done = []

    class Indirect(Algorithm):
        def run(self, train_dataset=None, val_dataset=None):
            return self.work()

        async def work(self):
            done.append(True)

    await side(Indirect())(store, ThreadingEvent())
    assert done == [True]


async def test_without_an_algorithm_it_waits_for_the_signal(store):
    """The store stays open for others until the event is set."""
    event = ThreadingEvent()
    waiting = asyncio.create_task(side(None)(store, event))
    assert (await asyncio.wait({waiting}, timeout=0.1))[1] == {waiting}
    event.set()
    await asyncio.wait_for(waiting, 10)


async def test_a_dataset_that_a_function_does_not_take_is_an_error(store):
    """The error reaches whoever runs the side."""

    @agl.algo
    async def narrow(store):
        """Declare no dataset."""

    with pytest.raises(TypeError, match="train_dataset"):
        await side(narrow, train_dataset=[1])(store, ThreadingEvent())


class Counting(Hook):
    """Counts rollouts."""

    def __init__(self):
        self.ended = []

    async def on_rollout_end(self, *, agent, runner, rollout, spans):
        self.ended.append((rollout.input, runner.get_worker_id(), len(spans)))


async def test_runners_that_share_an_object_keep_their_own_state(store):
    """Two workers run copies of one runner; one may end while the other goes on."""
    hook = Counting()
    tracer = OtelTracer()
    original = LitAgentRunner(tracer, max_rollouts=1, heartbeat_interval=0.0)
    runner = RunnerSide(runner=original, agent=Echo(), hooks=[hook])
    event = ThreadingEvent()
    workers = [asyncio.create_task(runner(store, number, event)) for number in range(2)]
    first = await store.enqueue_rollout(1)
    await store.wait_for_rollouts(rollout_ids=[first.rollout_id], timeout=10)
    await asyncio.wait(workers, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    second = await store.enqueue_rollout(2)
    (ended,) = await store.wait_for_rollouts(rollout_ids=[second.rollout_id], timeout=10)
    await asyncio.wait_for(asyncio.gather(*workers), 10)
    assert ended.status == "succeeded"
    assert len(await store.query_spans(second.rollout_id)) == 1
    assert [entry[0] for entry in hook.ended] == [1, 2]
    assert {entry[1] for entry in hook.ended} == {"Worker-0", "Worker-1"}
    with pytest.raises(ConfigurationError):
        original.get_store()


async def test_a_runner_is_taken_down_when_it_is_cancelled(store):
    """However it ends, the worker is released."""
    tracer = OtelTracer()
    torn_down = []

    class Runner(LitAgentRunner):
        def teardown(self, *args, **kwargs):
            torn_down.append(self.worker_id)
            super().teardown(*args, **kwargs)

    runner = RunnerSide(runner=Runner(tracer), agent=Echo(), hooks=[])
    worker = asyncio.create_task(runner(store, 3, ThreadingEvent()))
    await asyncio.sleep(0.05)
    worker.cancel()
    await asyncio.wait({worker}, timeout=10)
    assert worker.cancelled()
    assert torn_down == [None]


def test_both_sides_travel_to_another_process():
    """Whatever is set in them pickles, so that a strategy can spawn."""
    runner = RunnerSide(runner=LitAgentRunner(OtelTracer()), agent=Echo(), hooks=[Counting()])
    assert isinstance(pickle.loads(pickle.dumps(runner)).agent, Echo)
    whole = side(Noting(), initial_resources=RESOURCES, train_dataset=[1])
    again = pickle.loads(pickle.dumps(whole))
    assert (again.initial_resources, again.train_dataset) == (RESOURCES, [1])
