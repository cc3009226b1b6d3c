"""Fast algorithms: made for trying an agent out, not for learning."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.utils import with_llm_proxy, with_store
from agentlightning.errors import ConfigurationError
from agentlightning.store.base import is_finished, is_queuing

if TYPE_CHECKING:
    from agentlightning.llm_proxy import LLMProxy
    from agentlightning.store.base import LightningStore
    from agentlightning.types import Dataset, Rollout, RolloutMode, Span

__all__ = ["Baseline", "FastAlgorithm"]

logger = logging.getLogger(__name__)


class FastAlgorithm(Algorithm):
    """Marks algorithms that finish quickly and may be used with `Trainer.dev`."""


class Baseline(FastAlgorithm):
    """Runs every task once per epoch and logs what the agent did; learns nothing.

    Args:
        n_epochs: Passes over both datasets.
        train_split: Compat 0.3.0: must lie strictly between 0 and 1; has no effect.
        polling_interval: Seconds between two looks at an overfull queue.
        max_queue_length: Most rollouts that wait in the queue at once.
        span_verbosity: What is logged of each span: nothing, its attribute keys, or all.
    """

    def __init__(
        self,
        *,
        n_epochs: int = 1,
        train_split: float = 0.5,
        polling_interval: float = 5.0,
        max_queue_length: int = 4,
        span_verbosity: Literal["keys", "key_values", "none"] = "keys",
    ) -> None:
        """Check the arguments; see the class for their meaning."""
        if not 0.0 < train_split < 1.0:
            raise ConfigurationError(
                f"train_split={train_split} must lie strictly between 0 and 1."
            )
        self.n_epochs = n_epochs
        self.train_split = train_split
        self.polling_interval = polling_interval
        self.max_queue_length = max_queue_length
        self.span_verbosity = span_verbosity

    @with_llm_proxy()
    @with_store
    async def run(
        self,
        store: LightningStore,
        llm_proxy: LLMProxy | None,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
    ) -> None:
        """Enqueue the train tasks, then the validation tasks, and log each result."""
        resources = self.get_initial_resources()
        resources_id: str | None = None
        if resources is not None:
            resources_id = (await store.update_resources("default", resources)).resources_id
        for epoch in range(self.n_epochs):
            logger.info("baseline epoch", extra={"epoch": epoch + 1, "epochs": self.n_epochs})
            modes: tuple[tuple[RolloutMode, Dataset[Any] | None], ...] = (
                ("train", train_dataset),
                ("val", val_dataset),
            )
            for mode, dataset in modes:
                await self._run_dataset(store, dataset, mode, resources_id)

    async def _run_dataset(
        self,
        store: LightningStore,
        dataset: Dataset[Any] | None,
        mode: RolloutMode,
        resources_id: str | None,
    ) -> None:
        tasks: list[asyncio.Task[None]] = []
        for index in range(len(dataset) if dataset is not None else 0):
            assert dataset is not None
            await self._wait_for_room(store)
            rollout = await store.enqueue_rollout(
                dataset[index], mode=mode, resources_id=resources_id
            )
            tasks.append(asyncio.create_task(self._report(store, rollout.rollout_id)))
        await asyncio.gather(*tasks)

    async def _wait_for_room(self, store: LightningStore) -> None:
        while True:
            waiting = await store.query_rollouts(status_in=["queuing", "requeuing"])
            if len(waiting) < max(1, self.max_queue_length):
                return
            # Woken when one of the waiting rollouts ends; the interval covers one that is
            # claimed but takes long.
            ids = [rollout.rollout_id for rollout in waiting if is_queuing(rollout)]
            await store.wait_for_rollouts(rollout_ids=ids[:1], timeout=self.polling_interval)

    async def _report(self, store: LightningStore, rollout_id: str) -> None:
        finished: Sequence[Rollout] = await store.wait_for_rollouts(rollout_ids=[rollout_id])
        rollout = finished[0]
        assert is_finished(rollout)
        logger.info(
            "rollout ended", extra={"rollout_id": rollout_id, "rollout_status": rollout.status}
        )
        for attempt in await store.query_attempts(rollout_id):
            spans = await store.query_spans(rollout_id, attempt.attempt_id)
            logger.info(
                "attempt ended",
                extra={
                    "rollout_id": rollout_id,
                    "attempt_id": attempt.attempt_id,
                    "attempt_status": attempt.status,
                    "spans": len(spans),
                },
            )
            self._log_spans(spans)
        await self._log_adapted(store, rollout_id)

    def _log_spans(self, spans: Sequence[Span]) -> None:
        if self.span_verbosity == "none":
            return
        for span in spans:
            shown: Any = span.attributes
            if self.span_verbosity == "keys":
                shown = sorted(span.attributes)
            logger.info("span", extra={"span_name": span.name, "span_attributes": shown})

    async def _log_adapted(self, store: LightningStore, rollout_id: str) -> None:
        if self._adapter_ref is None:
            return
        spans = await store.query_spans(rollout_id, "latest")
        if not spans:
            return
        adapted = self.get_adapter().adapt(spans)
        logger.info("adapted data", extra={"rollout_id": rollout_id, "adapted": adapted})
