"""Counting the calls of each attempt, and waiting until none is left in flight.

A seal does not close anything: a call that comes later is served, recorded and counted, and the
store marks it late. A ledger belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from agentlightning.gateway.budget import Spending
from agentlightning.types.call import CallOutcome

__all__ = ["AttemptKey", "CallLedger", "CallTally"]

AttemptKey = tuple[str, str]
"""Rollout id and attempt id."""

# Perf: an entry takes about 0.6 kB, so this bounds a ledger to some 60 MB.
_MOST_ATTEMPTS = 100_000
_MOST_SEALED = 1024


@dataclass(slots=True)
class CallTally:
    """The calls of one attempt; `started` less the others is what is in flight."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    """Ended with an error that the client saw."""
    cancelled: int = 0
    """The client went away first."""
    unrecorded: int = 0
    """Ended without a record because the store failed; none of these was a success."""
    errors: Counter[str] = field(default_factory=Counter[str])
    """The failed ones by `CallRecord.error_code`."""
    spent: Spending = field(default_factory=Spending)
    waiters: list[asyncio.Event] = field(default_factory=list[asyncio.Event])

    @property
    def in_flight(self) -> int:
        """Return how many calls have not ended."""
        return self.started - self.finished - self.failed - self.cancelled

    def counts(self) -> dict[str, int]:
        """Return what a manifest keeps."""
        return {
            "started": self.started,
            "finished": self.finished,
            "failed": self.failed,
            "cancelled": self.cancelled,
        }


class CallLedger:
    """Tallies by attempt; the attempts used longest ago are forgotten past a bound.

    A seal tells that an attempt has ended, so for sealed ones there is a lower bound.
    """

    def __init__(
        self, most_attempts: int = _MOST_ATTEMPTS, most_sealed: int = _MOST_SEALED
    ) -> None:
        self._most_attempts = most_attempts
        self._most_sealed = most_sealed
        self._tallies: OrderedDict[AttemptKey, CallTally] = OrderedDict()
        self._sealed: OrderedDict[AttemptKey, None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many attempts are remembered."""
        return len(self._tallies)

    def begin(self, key: AttemptKey) -> CallTally:
        """Count a call as started and return the tally to `end` it on."""
        tally = self._tallies.get(key)
        if tally is None:
            self._forget_oldest()
            tally = self._tallies[key] = CallTally()
        else:
            self._tallies.move_to_end(key)
            self._sealed.pop(key, None)
        tally.started += 1
        return tally

    def end(self, tally: CallTally, outcome: CallOutcome, error_code: str | None = None) -> None:
        """Count a started call as ended."""
        if outcome == "ok":
            tally.finished += 1
        elif outcome == "error":
            tally.failed += 1
            tally.errors[error_code or "internal_error"] += 1
        else:
            tally.cancelled += 1
        if not tally.in_flight:
            for waiter in tally.waiters:
                waiter.set()

    async def seal(self, key: AttemptKey, timeout: float) -> CallTally:
        """Wait up to `timeout` seconds until no call is in flight; return the tally so far.

        An attempt that made no call has a tally of zeros.
        """
        tally = self._tallies.get(key, CallTally())
        if tally.in_flight:
            waiter = asyncio.Event()
            tally.waiters.append(waiter)
            try:
                async with asyncio.timeout(timeout):
                    await waiter.wait()
            except TimeoutError:
                pass
            finally:
                tally.waiters.remove(waiter)
        if not tally.in_flight:
            self._note_sealed(key)
        return tally

    def _note_sealed(self, key: AttemptKey) -> None:
        if key not in self._tallies:
            return
        self._sealed[key] = None
        self._sealed.move_to_end(key)
        while len(self._sealed) > self._most_sealed:
            oldest, _ = self._sealed.popitem(last=False)
            self._tallies.pop(oldest, None)

    def _forget_oldest(self) -> None:
        while len(self._tallies) >= self._most_attempts:
            key = next((k for k, tally in self._tallies.items() if not tally.in_flight), None)
            if key is None:
                return
            del self._tallies[key]
            self._sealed.pop(key, None)
