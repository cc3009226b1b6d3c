"""The two programs an execution strategy runs: the algorithm's side and a runner's side.

Both are module-level functions, so that a strategy can send them to a spawned process.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentlightning.runner.invocation import invoke_sync

if TYPE_CHECKING:
    from agentlightning.adapter.base import TraceAdapter
    from agentlightning.algorithm.base import Algorithm
    from agentlightning.litagent.base import LitAgent
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.runner.base import Runner
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset, ExecutionEvent, Hook, NamedResources

__all__ = ["AlgorithmSide", "RunnerSide"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class AlgorithmSide:
    """Calls the algorithm once, with everything it needs set."""

    algorithm: Algorithm | None
    """None waits for the stop signal instead, while others use the store."""
    adapter: TraceAdapter[Any]
    llm_proxy: LLMProxy | None
    initial_resources: NamedResources | None
    train_dataset: Dataset[Any] | None
    val_dataset: Dataset[Any] | None

    async def __call__(self, store: LightningStore, event: ExecutionEvent) -> None:
        """Run until the algorithm returns."""
        if self.llm_proxy is not None:
            self.llm_proxy.set_store(store)
        if self.algorithm is None:
            await asyncio.to_thread(event.wait)
            return
        self.algorithm.set_store(store)
        self.algorithm.set_adapter(self.adapter)
        self.algorithm.set_llm_proxy(self.llm_proxy)
        if self.initial_resources is not None:
            self.algorithm.set_initial_resources(self.initial_resources)
        datasets: dict[str, Any] = {
            "train_dataset": self.train_dataset,
            "val_dataset": self.val_dataset,
        }
        if self.algorithm.is_async():
            running = self.algorithm.run(**datasets)
        else:
            # A thread that can be abandoned: Ctrl-C must end what blocks, too.
            call = invoke_sync(functools.partial(self.algorithm.run, **datasets))
            try:
                running = await call.future
            finally:
                await call.abandon()
        if inspect.isawaitable(running):
            await running


@dataclass(kw_only=True)
class RunnerSide:
    """Runs one worker until it is told to stop."""

    runner: Runner[Any]
    agent: LitAgent[Any]
    hooks: Sequence[Hook]

    async def __call__(self, store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        """Serve rollouts as worker `worker_id`."""
        # A runner holds the state of one worker, so that workers that are threads need one each.
        runner = copy.copy(self.runner)
        runner.init(agent=self.agent, hooks=self.hooks)
        runner.init_worker(worker_id, store)
        try:
            await runner.iter(event=event)
        finally:
            runner.teardown_worker(worker_id)
            runner.teardown()
