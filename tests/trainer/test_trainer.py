"""The trainer: components from any form, and `fit` with real runners."""

import asyncio
import threading
import warnings

import pytest

import agentlightning as agl
from agentlightning.adapter.messages import TraceToMessages
from agentlightning.adapter.triplet import TracerTraceToTriplet
from agentlightning.algorithm.fast import Baseline
from agentlightning.errors import ComponentNotFoundError, ConfigurationError
from agentlightning.execution.client_server import ClientServerExecutionStrategy
from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy
from agentlightning.runner import LitAgentRunner
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.store.url import open_store
from agentlightning.tracer.dummy import DummyTracer
from agentlightning.tracer.otel import OtelTracer
from agentlightning.trainer import Trainer
from agentlightning.types import Hook, PromptTemplate

RESOURCES = {"greeting": PromptTemplate(template="hello", engine="f-string")}


class Echo(LitAgent):
    """Rewards with the task, in threads and in processes."""

    async def rollout_async(self, task, resources, rollout):
        return float(task)


class Own(Baseline):
    """An algorithm with a constructor of its own."""

    def __init__(self, n_epochs: int = 3) -> None:
        super().__init__(n_epochs=n_epochs)


async def collect(store, tasks):
    """Run tasks to their end and return their rewards."""
    rollouts = [await store.enqueue_rollout(task) for task in tasks]
    ids = [rollout.rollout_id for rollout in rollouts]
    ended = await store.wait_for_rollouts(rollout_ids=ids, timeout=20)
    assert [rollout.status for rollout in ended] == ["succeeded"] * len(tasks)
    return [agl.find_final_reward(await store.query_spans(rollout_id)) for rollout_id in ids]


# Components.


def test_the_defaults():
    """A trainer without arguments has everything but an algorithm and a proxy."""
    trainer = Trainer()
    assert trainer.algorithm is None
    assert trainer.llm_proxy is None
    assert (trainer.n_runners, trainer.n_workers, trainer.port) == (1, 1, None)
    assert (trainer.max_rollouts, trainer.max_tasks) == (None, None)
    assert (trainer.hooks, trainer.initial_resources, trainer.daemon) == ((), None, True)
    assert isinstance(trainer.tracer, OtelTracer)
    assert isinstance(trainer.adapter, TracerTraceToTriplet)
    assert trainer.triplet_exporter is trainer.adapter
    assert isinstance(trainer.strategy, ClientServerExecutionStrategy)
    assert isinstance(trainer.store, InMemoryLightningStore)
    assert trainer.store.capabilities["thread_safe"]
    assert isinstance(trainer.runner, LitAgentRunner)
    assert trainer.runner.tracer is trainer.tracer


def test_the_algorithm_chooses_the_strategy_unless_the_user_does():
    """GRPO prefers threads, others processes; a named strategy wins."""
    assert isinstance(Trainer(algorithm="Baseline").strategy, ClientServerExecutionStrategy)
    grpo = agl.GRPO(model="m")
    assert isinstance(Trainer(algorithm=grpo).strategy, SharedMemoryExecutionStrategy)
    named = Trainer(algorithm=grpo, strategy="cs")
    assert isinstance(named.strategy, ClientServerExecutionStrategy)


KINDS = [
    ("algorithm", Baseline, "Baseline", "agentlightning.algorithm.fast.Baseline"),
    ("tracer", DummyTracer, "DummyTracer", "agentlightning.tracer.dummy.DummyTracer"),
    ("adapter", TraceToMessages, "TraceToMessages", "agentlightning.adapter.TraceToMessages"),
    (
        "store",
        InMemoryLightningStore,
        "InMemoryLightningStore",
        "agentlightning.store.memory.InMemoryLightningStore",
    ),
    (
        "strategy",
        SharedMemoryExecutionStrategy,
        "shm",
        "agentlightning.execution.shared_memory.SharedMemoryExecutionStrategy",
    ),
    ("runner", LitAgentRunner, "LitAgentRunner", "agentlightning.runner.agent.LitAgentRunner"),
]


@pytest.mark.parametrize(("kind", "cls", "name", "path"), KINDS)
def test_every_form_of_every_component(kind, cls, name, path):
    """Class, factory, short name, path and dict give the component; an instance is kept."""
    needs_tracer = kind == "runner"
    instance = cls(OtelTracer()) if needs_tracer else cls()
    assert getattr(Trainer(**{kind: instance}), kind) is instance
    assert getattr(Trainer(**{kind: lambda: instance}), kind) is instance
    for spec in (cls, name, path, {"type": name}, {"type": path}, {"type": cls}):
        assert type(getattr(Trainer(**{kind: spec}), kind)) is cls


@pytest.mark.parametrize(("kind", "cls", "name", "path"), KINDS)
def test_a_wrong_component_is_refused_by_kind(kind, cls, name, path):
    """An unknown name, a wrong type and a hopeless value are errors when the trainer is made."""
    with pytest.raises(ComponentNotFoundError, match="Nonsense"):
        Trainer(**{kind: "Nonsense"})
    with pytest.raises(TypeError, match="Fraction"):
        Trainer(**{kind: "fractions.Fraction"})
    with pytest.raises(ValueError, match="int"):
        Trainer(**{kind: 42})


def test_a_dict_carries_arguments():
    """Whatever stands beside `type` goes to the constructor."""
    trainer = Trainer(
        algorithm={"type": "tests.trainer.test_trainer.Own", "n_epochs": 7},
        strategy={"type": "shm", "main_thread": "algorithm"},
        adapter={"agent_match": "planner"},
        runner={"poll_interval": 0.5},
        n_runners=3,
    )
    assert trainer.algorithm.n_epochs == 7
    assert (trainer.strategy.main_thread, trainer.strategy.n_runners) == ("algorithm", 3)
    assert isinstance(trainer.adapter, TracerTraceToTriplet)
    assert isinstance(trainer.runner, LitAgentRunner)


def test_the_strategy_has_the_last_word_about_runners():
    """The number of a ready strategy counts, and `execution_strategy` is another name."""
    trainer = Trainer(execution_strategy=SharedMemoryExecutionStrategy(n_runners=4), n_runners=2)
    assert (trainer.n_runners, trainer.n_workers) == (4, 4)
    assert isinstance(Trainer(execution_strategy="shm").strategy, SharedMemoryExecutionStrategy)


def test_the_port_goes_to_the_server_and_nowhere_else():
    """`port` sets the server's port, also of a ready strategy; threads have none."""
    assert Trainer(port=5005).strategy.server_port == 5005
    ready = ClientServerExecutionStrategy(server_port=4000)
    assert Trainer(strategy=ready, port=5005).strategy.server_port == 5005
    assert Trainer(strategy=ClientServerExecutionStrategy(server_port=4000)).port is None
    assert not hasattr(Trainer(strategy="shm", port=5005).strategy, "server_port")


def test_stores_by_url(tmp_path):
    """A URL names a store; one that makes no sense is an error."""
    assert isinstance(Trainer(store="memory://").store, InMemoryLightningStore)
    trainer = Trainer(store=f"sqlite:///{tmp_path}/a.db")
    assert isinstance(trainer.store, SQLiteLightningStore)
    asyncio.run(trainer.store.close())
    remote = Trainer(store="http://127.0.0.1:4747")
    assert type(remote.store) is agl.LightningStoreClient
    with pytest.raises(ConfigurationError, match="nonsense"):
        Trainer(store="nonsense://x")


def test_a_proxy_gets_the_store():
    """A dict of the proxy's arguments is enough; without one there is no proxy."""
    trainer = Trainer(llm_proxy={"port": 0, "model_list": []})
    assert isinstance(trainer.llm_proxy, LLMProxy)
    assert trainer.llm_proxy.get_store() is trainer.store
    proxy = LLMProxy(port=0)
    assert Trainer(llm_proxy=proxy).llm_proxy is proxy


def test_hooks_come_as_one_or_many():
    """One hook, a list or none become a tuple."""
    first, second = Hook(), Hook()
    assert Trainer(hooks=first).hooks == (first,)
    assert Trainer(hooks=[first, second]).hooks == (first, second)
    assert Trainer(hooks=[]).hooks == ()


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("n_workers", "n_runners", 2),
        ("max_tasks", "max_rollouts", 5),
        ("triplet_exporter", "adapter", TracerTraceToTriplet()),
    ],
)
def test_deprecated_names_warn_and_work(old, new, value):
    """Each old name warns where it is used, and sets what the new one sets."""
    with pytest.warns(DeprecationWarning, match=f"{old}= is deprecated; use {new}=") as caught:
        trainer = Trainer(**{old: value})
    assert caught[0].filename == __file__
    assert getattr(trainer, new) == getattr(trainer, old) == value
    with warnings.catch_warnings(record=True) as quiet:
        warnings.simplefilter("always")
        Trainer(**{old: value, new: value})
    assert [warning.category for warning in quiet] == [DeprecationWarning]


def test_the_new_name_wins_over_the_old_one():
    """Where both are given and differ, the old one is ignored with a warning."""
    with (
        pytest.warns(DeprecationWarning),
        pytest.warns(UserWarning, match="n_workers= is ignored"),
    ):
        assert Trainer(n_workers=2, n_runners=3).n_runners == 3


def test_the_dev_flag_points_to_the_method():
    """`dev=True` has no effect but a warning."""
    with pytest.warns(DeprecationWarning, match=r"Trainer\.dev"):
        Trainer(dev=True)


# Fit.


@pytest.fixture(params=["async", "sync"])
def algorithm(request):
    """An algorithm function that enqueues its tasks and keeps their rewards in `seen`."""
    if request.param == "async":

        @agl.algo
        async def learn(store, adapter, initial_resources, train_dataset, val_dataset):
            learn.seen = await collect(store, train_dataset)
            learn.parts = (adapter, initial_resources, val_dataset)

    else:

        @agl.algo
        def learn(store, adapter, initial_resources, train_dataset, val_dataset):
            learn.seen = asyncio.run(collect(store, train_dataset))
            learn.parts = (adapter, initial_resources, val_dataset)
            return len(learn.seen)

    return learn


def test_fit_runs_an_algorithm_function(algorithm):
    """Sync or async, it gets what it declares, and its rollouts are executed meanwhile."""
    trainer = Trainer(algorithm=algorithm, strategy="shm", n_runners=2, initial_resources=RESOURCES)
    result = trainer.fit(Echo(), [1, 2, 3], val_dataset=[9])
    assert algorithm.seen == [1.0, 2.0, 3.0]
    assert algorithm.parts == (trainer.adapter, RESOURCES, [9])
    assert algorithm.get_trainer() is trainer
    assert result.seconds > 0
    assert (result.steps, result.best, result.run_dir) == (0, None, None)


@agl.rollout
async def shout(task, prompt_template):
    """Reward the length of the prompt."""
    return float(len(prompt_template.template)) + task


def test_fit_with_processes():
    """The same over a store server: agents run elsewhere, the algorithm sees their rewards."""
    seen = []

    @agl.algo
    async def learn(store, initial_resources, train_dataset):
        await store.update_resources("default", initial_resources)
        seen.extend(await collect(store, train_dataset))

    Trainer(algorithm=learn, strategy="cs", initial_resources=RESOURCES).fit(shout, [1, 2])
    assert seen == [6.0, 7.0]


def test_train_is_fit(algorithm):
    """The name that some documents use."""
    Trainer(algorithm=algorithm, strategy="shm").train(Echo(), [1], val_dataset=[2])
    assert (algorithm.seen, algorithm.parts[2]) == ([1.0], [2])


def plain(task, prompt_template):
    """Reward as a plain function does."""
    return len(prompt_template.template) / 10


def test_a_plain_function_is_an_agent():
    """`fit` decorates it; what is neither function nor agent is refused."""
    trainer = Trainer(algorithm=Baseline(), strategy="shm", initial_resources=RESOURCES)
    trainer.fit(plain, [1])
    (rollout,) = asyncio.run(trainer.store.query_rollouts())
    spans = asyncio.run(trainer.store.query_spans(rollout.rollout_id))
    assert agl.find_final_reward(spans) == 0.5
    with pytest.raises(ConfigurationError, match="not a int"):
        trainer.fit(42)


def test_a_reward_function_grades_what_agents_return():
    """The agent returns its answer; the function sees task, output, spans and rollout."""

    class Answer(LitAgent):
        async def rollout_async(self, task, resources, rollout):
            return {"answer": task * 2}

    async def grade(task, output, *, spans, rollout):
        return {"primary": float(output["answer"] == task * 2), "size": float(rollout.input)}

    trainer = Trainer(algorithm=Baseline(), strategy="shm", reward_fn=grade)
    trainer.fit(Answer(), [3])
    (rollout,) = asyncio.run(trainer.store.query_rollouts())
    assert rollout.attempt.metadata["output"] == {"answer": 6}
    assert agl.find_final_reward(asyncio.run(trainer.store.query_spans(rollout.rollout_id))) == 1.0


def test_hooks_and_limits_reach_the_runner():
    """Hooks are called around each rollout; a runner stops after `max_rollouts`."""
    ended = []

    class Noting(Hook):
        async def on_rollout_end(self, *, agent, runner, rollout, spans):
            ended.append(rollout.input)

    @agl.algo
    async def learn(store):
        rollouts = [await store.enqueue_rollout(number) for number in range(4)]
        ids = [rollout.rollout_id for rollout in rollouts]
        await store.wait_for_rollouts(rollout_ids=ids[:2], timeout=20)

    trainer = Trainer(algorithm=learn, strategy="shm", hooks=Noting(), max_rollouts=2)
    trainer.fit(Echo())
    assert ended == [0, 1]


def test_concurrency_is_the_runners():
    """One runner executes so many rollouts at a time."""
    together = asyncio.Barrier(3)

    class Meeting(LitAgent):
        async def rollout_async(self, task, resources, rollout):
            async with asyncio.timeout(10):
                await together.wait()
            return 1.0

    @agl.algo
    async def learn(store):
        await collect(store, [1, 2, 3])

    Trainer(algorithm=learn, strategy="shm", concurrency=3).fit(Meeting())


def test_errors_of_the_algorithm_reach_the_caller():
    """What the algorithm raises is raised by `fit`, with threads and with processes."""

    @agl.algo
    async def broken():
        raise LookupError("no idea")

    for strategy in ("shm", "cs"):
        with pytest.raises(LookupError, match="no idea"):
            Trainer(algorithm=broken, strategy=strategy).fit(Echo())


def test_resume_needs_an_algorithm_that_can():
    """An algorithm without state says so before anything runs."""
    with pytest.raises(ConfigurationError, match="keeps no state"):
        Trainer(algorithm=Baseline(), strategy="shm").fit(Echo(), [1], resume=True)


def test_without_an_algorithm_the_store_is_served_until_stopped():
    """Others enqueue; runners execute until they have done their share and the run is stopped."""

    class Stoppable(SharedMemoryExecutionStrategy):
        def execute(self, algorithm, runner, store):
            async def until_done(store, event):
                waiting = asyncio.create_task(algorithm(store, event))
                self.rewards = await collect(store, [1, 2])
                assert not waiting.done()
                event.set()
                await asyncio.wait_for(waiting, 10)

            super().execute(until_done, runner, store)

    strategy = Stoppable()
    result = Trainer(strategy=strategy).fit(Echo())
    assert strategy.rewards == [1.0, 2.0]
    assert result.steps == 0


async def test_fit_works_where_a_loop_is_running(algorithm):
    """As in a notebook: `fit` blocks, and does not nest loops."""
    Trainer(algorithm=algorithm, strategy="shm").fit(Echo(), [1, 2])
    assert algorithm.seen == [1.0, 2.0]


async def test_fit_with_processes_works_where_a_loop_is_running():
    """The same with a store server and a runner process."""
    seen = []

    @agl.algo
    async def learn(store):
        seen.extend(await collect(store, [1]))

    Trainer(algorithm=learn, strategy="cs").fit(Echo())
    assert seen == [1.0]


def test_a_second_fit_starts_afresh(algorithm):
    """One trainer may fit again; runners, tracer and store are still usable."""
    trainer = Trainer(algorithm=algorithm, strategy="shm")
    before = threading.active_count()
    trainer.fit(Echo(), [1])
    trainer.fit(Echo(), [2])
    assert algorithm.seen == [2.0]
    assert len(asyncio.run(trainer.store.query_rollouts())) == 2
    assert threading.active_count() <= before + 1


def test_a_store_of_the_users_outlives_the_fit(algorithm, tmp_path):
    """What a fit stored in a file is there for whoever opens it next."""
    url = f"sqlite:///{tmp_path}/a.db"
    trainer = Trainer(algorithm=algorithm, strategy="shm", store=url)
    trainer.fit(Echo(), [1, 2])
    asyncio.run(trainer.store.close())

    async def read():
        store = open_store(url)
        try:
            return [(each.input, each.status) for each in await store.query_rollouts()]
        finally:
            await store.close()

    assert sorted(asyncio.run(read())) == [(1, "succeeded"), (2, "succeeded")]


def test_dev_tries_the_agent_with_the_baseline():
    """Without an algorithm it is `Baseline`; a learning one is refused by its name."""
    trainer = Trainer(strategy="shm")
    trainer.dev(Echo(), [1, 2], val_dataset=[3])
    assert isinstance(trainer.algorithm, Baseline)
    rollouts = asyncio.run(trainer.store.query_rollouts())
    assert sorted((each.mode, each.input) for each in rollouts) == [
        ("train", 1),
        ("train", 2),
        ("val", 3),
    ]
    with pytest.raises(TypeError, match="not a GRPO"):
        Trainer(algorithm=agl.GRPO(model="m")).dev(Echo())
