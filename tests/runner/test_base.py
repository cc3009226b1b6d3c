"""The life cycle of a runner."""

import pytest

from agentlightning.litagent import LitAgent
from agentlightning.runner import Runner
from agentlightning.runner.base import worker_name


class Recording(Runner):
    def __init__(self, fail=()):
        self.calls, self.fail = [], fail

    def _note(self, name, *args):
        self.calls.append((name, *args))
        if name in self.fail:
            raise RuntimeError(name)

    def init(self, agent, *, hooks, **kwargs):
        self._note("init", len(hooks))

    def init_worker(self, worker_id, store, **kwargs):
        self._note("init_worker", worker_id)

    def teardown_worker(self, worker_id, *args, **kwargs):
        self._note("teardown_worker", worker_id)

    def teardown(self, *args, **kwargs):
        self._note("teardown")


def test_run_context_passes_the_worker_id():
    """The worker's number reaches both ends of the life cycle."""
    runner = Recording()
    with runner.run_context(agent=LitAgent(), store=None, worker_id=7) as bound:
        assert bound is runner
    assert runner.calls == [
        ("init", 0), ("init_worker", 7), ("teardown_worker", 7), ("teardown",)
    ]  # fmt: skip


def test_run_context_counts_workers_from_zero():
    """Without a number the worker is number 0."""
    runner = Recording()
    with runner.run_context(agent=LitAgent(), store=None):
        assert ("init_worker", 0) in runner.calls


def test_only_what_was_done_is_undone():
    """When a step fails, the steps before it are undone and the error comes out."""
    runner = Recording(fail=("init_worker",))
    bound = runner.run_context(agent=LitAgent(), store=None)
    with pytest.raises(RuntimeError, match="init_worker"), bound:
        raise AssertionError("not reached")
    assert runner.calls == [("init", 0), ("init_worker", 0), ("teardown",)]


def test_unknown_workers_have_a_name():
    """A runner without a number is called so."""
    assert worker_name(None) == "Worker-Unknown"
