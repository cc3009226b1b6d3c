"""Writing call records, so that whoever has an answer can rely on its record.

This is the boundary to the store: whatever a store raises ends here, as an error that says what
the client is to do.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, fields

from agentlightning.errors import NotFoundError, StoreUnavailableError
from agentlightning.store.base import LightningStore
from agentlightning.types.call import CallRecord

__all__ = ["CallRecorder", "GatewayStats"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class GatewayStats:
    """Counts since the gateway started; read them from any thread."""

    recorded: int = 0
    """Calls whose record is in the store, whatever their outcome."""
    unrecorded: int = 0
    """Calls whose record the store did not take; their clients got an error."""
    unattributed: int = 0
    """Calls to a model that named no attempt; they are passed through without a record."""
    replayed: int = 0
    """Repeats under an `Idempotency-Key` that got the answer of the call that was made."""
    passed_through: int = 0
    """Other requests that were passed through."""

    def add(self, other: GatewayStats) -> None:
        """Add another gateway's counts to these."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class CallRecorder:
    """Stores call records one by one.

    Args:
        store: Where the records go; used from the gateway's event loop.
        stats: Counts what was written and what was not.
        timeout: Longest wait for the store, in seconds.
    """

    def __init__(self, store: LightningStore, stats: GatewayStats, timeout: float) -> None:
        self.store = store
        self._stats = stats
        self._timeout = timeout

    async def write(self, record: CallRecord) -> None:
        """Store a record and return when it is durable.

        A caller that is cancelled meanwhile still has its record written first.

        Raises:
            NotFoundError: The store does not know the record's rollout or attempt.
            StoreUnavailableError: The store could not take it.
        """
        writing = asyncio.create_task(self._write(record))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            error = None if writing.cancelled() else writing.exception()
            if error is not None:
                # That the record is lost matters more than that the client is gone.
                raise error from None
            raise

    async def _write(self, record: CallRecord) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self.store.add_span(record.to_span())
        except NotFoundError as error:
            self._count_lost(record, error)
            raise
        except Exception as error:
            self._count_lost(record, error)
            raise StoreUnavailableError(
                "The call could not be recorded, so its answer is withheld. Make the call again."
            ) from error
        self._stats.recorded += 1

    def _count_lost(self, record: CallRecord, error: Exception) -> None:
        self._stats.unrecorded += 1
        ids = {"rollout_id": record.rollout_id, "attempt_id": record.attempt_id}
        logger.error("call not recorded", exc_info=error, extra={**ids, "call_id": record.call_id})
