"""The contract of a runner: bind an agent, bind a worker, then iterate or take single steps."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from agentlightning.types import ParallelWorkerBase

if TYPE_CHECKING:
    from agentlightning.litagent.base import LitAgent
    from agentlightning.store.base import LightningStore
    from agentlightning.types import ExecutionEvent, Hook, NamedResources, Rollout, RolloutMode

__all__ = ["Runner", "worker_name"]

T = TypeVar("T")


def worker_name(worker_id: int | None) -> str:
    """Return the id under which the store knows a runner.

    Example:
        >>> worker_name(3)
        'Worker-3'
    """
    return f"Worker-{'Unknown' if worker_id is None else worker_id}"


class Runner(ParallelWorkerBase, Generic[T]):
    """Executes rollouts with one agent.

    The order of calls is `init`, `init_worker`, any number of `iter` and `step`,
    `teardown_worker`, `teardown`. One object serves one worker; for several workers in one
    process make a copy (`copy.copy`) before `init`.
    """

    def init(self, agent: LitAgent[T], **kwargs: Any) -> None:
        """Bind the agent; `hooks=` is passed by the trainer."""
        raise NotImplementedError

    def init_worker(self, worker_id: int, store: LightningStore, **kwargs: Any) -> None:
        """Bind the worker's number and the store."""
        raise NotImplementedError

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a runner has no single `run`.

        Raises:
            RuntimeError: Always; use `iter` or `step`.
        """
        raise RuntimeError("A runner has no run(); use iter() or step().")

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Undo `init`."""
        raise NotImplementedError

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Undo `init_worker`."""
        raise NotImplementedError

    async def iter(self, *, event: ExecutionEvent | None = None) -> None:
        """Claim and execute rollouts until `event` is set."""
        raise NotImplementedError

    async def step(
        self,
        input: T,
        *,
        resources: NamedResources | None = None,
        mode: RolloutMode | None = None,
        event: ExecutionEvent | None = None,
    ) -> Rollout:
        """Execute one task past the queue and return its rollout; errors of the agent are raised.

        Args:
            input: The task.
            resources: Published first, when given; otherwise the latest ones are used.
            mode: What the rollout is for.
            event: Setting it stops the rollout.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def run_context(
        self,
        *,
        agent: LitAgent[T],
        store: LightningStore,
        hooks: Sequence[Hook] | None = None,
        worker_id: int | None = None,
    ) -> Generator[Self]:
        """Bind agent, hooks, store and worker for the block, and undo it afterwards.

        Args:
            agent: The agent to execute.
            store: The store to work with.
            hooks: Called around each rollout.
            worker_id: The worker's number, 0 if not given.
        """
        number = 0 if worker_id is None else worker_id
        with contextlib.ExitStack() as undo:
            self.init(agent=agent, hooks=list(hooks or []))
            undo.callback(self.teardown)
            self.init_worker(number, store)
            undo.callback(self.teardown_worker, number)
            yield self
