"""Everything in threads of one process."""

import asyncio
from functools import partial

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.execution import SharedMemoryExecutionStrategy
from agentlightning.store.memory import InMemoryLightningStore
from tests.execution import bundles
from tests.support.threads import new_threads


def execute(algorithm, runner, *, thread_safe=True, **options):
    """Run both sides with short delays; return what the store holds afterwards."""
    with new_threads() as started:
        store = InMemoryLightningStore(thread_safe=thread_safe)
        strategy = SharedMemoryExecutionStrategy(**{"graceful_delay": 0.5, **options})
        try:
            strategy.execute(algorithm, runner, store)
            return asyncio.run(bundles.collect(store))
        finally:
            asyncio.run(store.close())
            assert not [t for t in started("") if not t.daemon]
            assert not started("agl-runner")


@pytest.mark.parametrize("n_runners", [1, 8])
@pytest.mark.parametrize("main_thread", [None, "algorithm"])
def test_rollouts_run_on_all_runners(n_runners, main_thread):
    """Every task is executed once, with its own reward, whatever the number of runners."""
    found = execute(
        partial(bundles.run_tasks, range(24)),
        partial(bundles.run_agents, bundles.Echo()),
        n_runners=n_runners,
        main_thread=main_thread,
    )
    assert {task: row[:2] + row[3:] for task, row in found.items()} == {
        task: ["succeeded", ["ok"], [float(task)]] for task in range(24)
    }
    workers = {worker for row in found.values() for worker in row[2]}
    assert workers <= {f"Worker-{n}" for n in range(n_runners)}


@pytest.mark.parametrize("main_thread", ["runner", "algorithm"])
def test_the_end_of_the_algorithm_stops_the_runners(main_thread):
    """Runners that wait for work end when the algorithm returns."""

    async def nothing(store, event):
        await asyncio.sleep(0.1)

    execute(nothing, partial(bundles.run_agents, bundles.Echo()), main_thread=main_thread)


@pytest.mark.parametrize("main_thread", ["runner", "algorithm"])
def test_errors_of_the_algorithm_come_out(main_thread):
    """What the algorithm raises stops the runners and is raised."""
    with pytest.raises(LookupError, match="the algorithm broke"):
        execute(bundles.fail, bundles.wait_for_event, main_thread=main_thread)


@pytest.mark.parametrize("n_runners", [1, 3])
@pytest.mark.parametrize("main_thread", [None, "algorithm"])
def test_errors_of_runners_come_out(n_runners, main_thread):
    """What a runner raises stops the algorithm, also a waiting one, and is raised."""
    with pytest.raises(RuntimeError, match="no licence"):
        execute(
            bundles.wait_for_ever,
            bundles.crash_at_start,
            n_runners=n_runners,
            main_thread=main_thread,
        )


def test_the_algorithm_goes_on_after_the_runners():
    """A runner that ends by itself does not end the algorithm."""
    seen = []

    async def slow(store, event):
        await asyncio.sleep(0.3)
        seen.append(event.is_set())

    execute(slow, bundles.leave, main_thread="runner")
    assert seen == [False]


def test_work_under_way_is_given_back():
    """A rollout that does not end within the grace goes back into the queue."""

    class Endless(bundles.Echo):
        async def rollout_async(self, task, resources, rollout):
            await asyncio.sleep(60)

    async def give_out_and_leave(store, event):
        await store.enqueue_rollout(1)
        while not await store.query_rollouts(status_in=["preparing", "running"]):
            await asyncio.sleep(0.01)

    found = execute(give_out_and_leave, partial(bundles.run_agents, Endless()), graceful_delay=0.2)
    assert found[1][:2] == ["requeuing", ["interrupted"]]


def test_a_store_that_is_not_thread_safe_is_wrapped():
    """Both sides see a store that threads may share, unless the store is unmanaged."""
    seen = []

    async def look(store, event):
        seen.append(store.capabilities["thread_safe"])

    execute(look, bundles.leave, thread_safe=False)
    execute(look, bundles.leave, thread_safe=False, managed_store=False)
    assert seen == [True, False]


async def test_it_runs_where_a_loop_runs_already():
    """A notebook, whose thread has an event loop, can execute all the same."""
    store = InMemoryLightningStore(thread_safe=True)
    strategy = SharedMemoryExecutionStrategy()
    strategy.execute(
        partial(bundles.run_tasks, [1]), partial(bundles.run_agents, bundles.Echo()), store
    )
    assert (await bundles.collect(store))[1][0] == "succeeded"
    await store.close()


def test_impossible_layouts_are_refused():
    """Several runners cannot share the main thread; the default then is the algorithm."""
    with pytest.raises(ValueError, match="main_thread='algorithm'"):
        SharedMemoryExecutionStrategy(n_runners=2, main_thread="runner")
    with pytest.raises(ConfigurationError, match="n_runners"):
        SharedMemoryExecutionStrategy(n_runners=0)
    assert SharedMemoryExecutionStrategy(n_runners=2).main_thread == "algorithm"
    assert SharedMemoryExecutionStrategy().main_thread == "runner"
