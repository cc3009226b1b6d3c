"""Settling an attempt: seal its calls, write its manifest, and set its last status."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from agentlightning._internal.clock import monotonic
from agentlightning.errors import RolloutError, StoreError
from agentlightning.runner.lease import return_rollout
from agentlightning.runner.outcome import (
    RolloutStoppedError,
    attempt_status,
    error_record,
    outcome_of,
)
from agentlightning.store.foreign import OTHER_ERRORS, store_errors
from agentlightning.types import AttemptedRollout, NamedResources

if TYPE_CHECKING:
    from agentlightning.runner.seal import Sealer
    from agentlightning.store.base import LightningStore
    from agentlightning.tracer.base import Tracer

__all__ = ["Settlement"]

logger = logging.getLogger(__name__)

SEAL_SECONDS = 5.0
"""How long the gateway may wait for calls in flight when the agent has returned."""

STOPPED_SEAL_SECONDS = 0.5
"""The same when the agent was stopped: its calls are being cancelled anyway."""

OUTAGE_SECONDS = 60.0
"""How long to try again while the store cannot be reached."""

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Everything needed to settle one attempt."""

    rollout: AttemptedRollout
    resources: NamedResources
    store: LightningStore
    tracer: Tracer
    sealer: Sealer
    own_spans: int
    """Spans that the runner stored itself, past the tracer."""
    output: Any
    """What the agent returned, if a reward function graded it."""
    hook_errors: list[dict[str, str]]
    give_back: bool
    """Put an interrupted rollout back into the queue."""

    async def settle(self, error: RolloutError | None) -> None:
        """Write manifest, outcome and status; never raises.

        Args:
            error: Why the attempt failed, or None. A store that cannot be reached is tried again
                for a minute; then the attempt stays open, and its lease decides.
        """
        metadata = await self._metadata(error)
        deadline = monotonic() + OUTAGE_SECONDS
        while True:
            try:
                with store_errors():
                    await self._write(error, metadata)
            except (StoreError, *OTHER_ERRORS) as failure:
                is_passing = isinstance(failure, StoreError) and failure.retryable
                if is_passing and monotonic() < deadline:
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                # Somebody ended or removed the rollout, and their word stands; or the store is broken.
                self._log("attempt could not be settled", failure)
            return

    async def _write(self, error: RolloutError | None, metadata: dict[str, Any]) -> None:
        interrupted = isinstance(error, RolloutStoppedError) and error.cause == "interrupted"
        if interrupted and self.give_back:
            await return_rollout(self.store, self.rollout, metadata)
            return
        await self.store.update_attempt(
            self.rollout.rollout_id,
            self.rollout.attempt.attempt_id,
            status=attempt_status(error),
            metadata={**(self.rollout.attempt.metadata or {}), **metadata},
        )

    async def _metadata(self, error: RolloutError | None) -> dict[str, Any]:
        attempt = self.rollout.attempt
        seconds = SEAL_SECONDS if error is None else STOPPED_SEAL_SECONDS
        report = await self.sealer.seal(self.resources, attempt, timeout=seconds)
        sent, dropped = self.tracer.export_counts(attempt.rollout_id, attempt.attempt_id)
        metadata: dict[str, Any] = {
            "outcome": outcome_of(error, report),
            "manifest": {
                **report.manifest(),
                "spans": {"sent": sent + self.own_spans, "dropped": dropped},
            },
        }
        if error is not None:
            metadata["error"] = error_record(error)
        if self.output is not None:
            metadata["output"] = to_jsonable_python(self.output, serialize_unknown=True)
        if self.hook_errors:
            metadata["hook_errors"] = self.hook_errors
        return metadata

    def _log(self, message: str, failure: Exception) -> None:
        logger.error(message, extra={"rollout_id": self.rollout.rollout_id}, exc_info=failure)
