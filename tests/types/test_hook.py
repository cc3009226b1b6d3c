"""Extension points that users implement."""

from agentlightning.types import Dataset, Hook, ParallelWorkerBase


def test_a_list_is_a_dataset():
    """Anything with a length and an index will do; a generator will not."""
    assert isinstance([1, 2], Dataset)
    assert not isinstance(iter([1, 2]), Dataset)


def test_worker_knows_its_number():
    """`init_worker` remembers the number, whatever else it is given."""
    worker = ParallelWorkerBase()
    assert worker.worker_id is None
    worker.init("anything", key="word")
    worker.init_worker(3, "store")
    assert worker.worker_id == 3
    worker.teardown_worker(3)
    worker.teardown()


async def test_hook_does_nothing_unless_overridden():
    """A hook that overrides one callback gets through the others."""
    hook = Hook()
    await hook.on_rollout_start(agent=None, runner=None, rollout=None)
    await hook.on_trace_start(agent=None, runner=None, tracer=None, rollout=None)
    await hook.on_trace_end(agent=None, runner=None, tracer=None, rollout=None)
    await hook.on_rollout_end(agent=None, runner=None, rollout=None, spans=[])
