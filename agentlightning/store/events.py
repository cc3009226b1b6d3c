"""Telling what changed: wake-ups for those who wait, and subscriptions to the journal.

Events are kept by an `EventJournal`. Here nothing is queued per subscriber: a change only wakes
readers, who then read the journal from where they were, so none can lose or reorder events.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

from agentlightning._internal.aio import Waiter, WaitLine
from agentlightning.errors import ConflictError
from agentlightning.store.collections.base import EventJournal
from agentlightning.store.collections.changes import Told
from agentlightning.store.collections.filtering import has_pairs
from agentlightning.types import StoreEvent
from agentlightning.types.event import StoreEventKind

RECHECK_SECONDS: Final = 10.0
"""How often a waiting call looks by itself: a safety net, for storage that cannot tell what other
processes change, and for attempts that run out while nobody calls."""

_QUEUED = frozenset({"queuing", "requeuing"})
_FINISHED = frozenset({"succeeded", "failed", "cancelled"})
_ROLLOUT_KINDS = frozenset({"rollout_created", "rollout_updated"})


class Completion:
    """Somebody's wait for several rollouts to end."""

    def __init__(self, rollout_ids: Iterable[str]) -> None:
        self.pending = set(rollout_ids)
        self.waiter = Waiter()


class Completions:
    """Who waits for which rollout; each ended rollout costs only those who wait for it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._by_rollout: dict[str, list[Completion]] = {}

    def __len__(self) -> int:
        return len(self._by_rollout)

    def watch(self, rollout_ids: Sequence[str]) -> Completion:
        """Register for these rollouts; do it *before* looking at their statuses."""
        completion = Completion(rollout_ids)
        with self._guard:
            for rollout_id in completion.pending:
                self._by_rollout.setdefault(rollout_id, []).append(completion)
        return completion

    def settle(self, completion: Completion, rollout_ids: Iterable[str]) -> None:
        """Stop waiting for some of the rollouts."""
        with self._guard:
            completion.pending.difference_update(rollout_ids)
            done = not completion.pending
        if done:
            completion.waiter.fire()

    def finished(self, rollout_id: str) -> None:
        """Note that a rollout ended, and wake those for whom it was the last."""
        with self._guard:
            completions = self._by_rollout.pop(rollout_id, [])
            for completion in completions:
                completion.pending.discard(rollout_id)
            done = [completion for completion in completions if not completion.pending]
        for completion in done:
            completion.waiter.fire()

    def wake_all(self) -> None:
        """Have everybody look for themselves."""
        with self._guard:
            completions = {id(one): one for many in self._by_rollout.values() for one in many}
        for completion in completions.values():
            completion.waiter.fire()

    def leave(self, completion: Completion, rollout_ids: Sequence[str]) -> None:
        """Forget a wait."""
        completion.waiter.abandon()
        with self._guard:
            for rollout_id in rollout_ids:
                waiting = self._by_rollout.get(rollout_id)
                if waiting is None:
                    continue
                waiting[:] = [other for other in waiting if other is not completion]
                if not waiting:
                    del self._by_rollout[rollout_id]


class ChangeLog:
    """The journal of one store together with those whom it wakes; safe from any thread."""

    def __init__(self, journal: EventJournal) -> None:
        self.journal = journal
        self.work = WaitLine()
        """Workers that wait for a queued rollout, in order of arrival."""
        self.completions = Completions()
        self._readers = WaitLine()
        self._guard = threading.Lock()
        self._choosy = 0
        self._first: int | None = None
        self._last: int | None = None
        self._caught_up: int | None = None
        """All events up to this one were announced; None before the first `catch_up`."""

    def announce(self, events: Sequence[StoreEvent]) -> None:
        """Wake everybody whom these events concern; they are in the journal already."""
        if events:
            self._note(events[0].seq, events[-1].seq)
            self._wake((event.kind, event.rollout_id, event.status) for event in events)

    def tell(self, told: Sequence[Told], last: int) -> None:
        """Do the same for events that are no records, of which the last has this number."""
        self._note(last - len(told) + 1, last)
        self._wake((kind, rollout_id, status) for kind, _, rollout_id, _, _, _, status, _ in told)

    def _note(self, first: int, last: int) -> None:
        with self._guard:
            if self._first is None:
                self._first = first
            self._last = max(self._last or 0, last)
            if self._caught_up is not None and self._caught_up >= first - 1:
                self._caught_up = max(self._caught_up, last)

    def _wake(self, changed: Iterable[tuple[StoreEventKind, str | None, str | None]]) -> None:
        # Who starts to wait looks once more afterwards, so where nobody does, nothing is to do.
        if self.completions or len(self.work):
            self._wake_workers(changed)
        if len(self._readers):
            self._readers.wake_all()

    def _wake_workers(
        self, changed: Iterable[tuple[StoreEventKind, str | None, str | None]]
    ) -> None:
        """Wake who waits for a rollout to end, or for one to work on."""
        queued = 0
        for kind, rollout_id, status in changed:
            if kind not in _ROLLOUT_KINDS or rollout_id is None:
                continue
            if status in _FINISHED:
                self.completions.finished(rollout_id)
            elif status in _QUEUED:
                queued += 1
        if queued:
            # Who is choosy may have no use for what came, and would leave it lying.
            self.work.wake(len(self.work) if self._choosy else queued)

    @contextmanager
    def choosing(self) -> Generator[None]:
        """Wait in the line `work` for some rollouts only, within the block."""
        with self._guard:
            self._choosy += 1
        try:
            yield
        finally:
            with self._guard:
                self._choosy -= 1

    async def catch_up(self) -> list[StoreEvent]:
        """Announce the events that others wrote into the journal since the last call.

        The first call cannot know since when, so it wakes everybody, as does one that comes too
        late to find all events.

        Returns:
            What was announced; own events may be among them a second time, which wakes somebody
            once more and does no harm.
        """
        found: list[StoreEvent] = []
        while True:
            with self._guard:
                position = self._caught_up
            try:
                events = None if position is None else await self.journal.read(position)
            except ConflictError:
                events = None
            if events is None:
                last = await self.journal.last_seq()
                with self._guard:
                    self._caught_up = last
                self._wake_everybody()
                continue
            if not events:
                return found
            self.announce(events)
            found.extend(events)

    def _wake_everybody(self) -> None:
        self.work.wake_all()
        self.completions.wake_all()
        self._readers.wake_all()

    def subscribe(
        self,
        *,
        since: int | None = None,
        kinds: Sequence[StoreEventKind] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncIterator[StoreEvent]:
        """Follow the journal; see `LightningStore.subscribe`."""
        position = self._last if since is None else since
        return self._follow(position, frozenset(kinds) if kinds else None, metadata or {})

    async def _follow(
        self, position: int | None, kinds: frozenset[str] | None, metadata: dict[str, Any]
    ) -> AsyncIterator[StoreEvent]:
        if position is None:
            # Nothing had been announced here at the call; what was since then is still to come.
            first = self._first
            position = first - 1 if first is not None else await self.journal.last_seq()
        elif position > (last := await self.journal.last_seq()):
            raise ConflictError(
                f"Event {position} is yet to come: the last one is {last}. The cursor belongs to "
                "another store; read the records anew and subscribe from now on."
            )
        while True:
            waiter = self._readers.join()
            try:
                events = await self.journal.read(position)
                if not events:
                    await waiter.wait(RECHECK_SECONDS)
            finally:
                self._readers.leave(waiter)
            for event in events:
                position = event.seq
                if (kinds is None or event.kind in kinds) and has_pairs(
                    event.data.get("metadata"), metadata
                ):
                    yield event
