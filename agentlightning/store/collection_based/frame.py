"""What every part of the store stands on: atomic steps, their events, metrics, the watchdog.

The parts are one module for each subject; `store.py` puts them together.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

from agentlightning._internal.aio import CommittedThenCancelledError, Waiter
from agentlightning._internal.clock import monotonic, now
from agentlightning.errors import StoreError
from agentlightning.store.base import LightningStore
from agentlightning.store.collection_based.replies import Answer
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.collections.base import (
    AtomicLabels,
    DuplicatedPrimaryKeyError,
    LightningCollections,
)
from agentlightning.store.collections.changes import Changes, Reply
from agentlightning.store.collections.memory_journal import MemoryJournal
from agentlightning.store.collections.metered import metered
from agentlightning.store.events import RECHECK_SECONDS, ChangeLog
from agentlightning.store.idempotency import current_idempotency_key
from agentlightning.store.lifecycle import deadline, expiry, lease_ran_out, on_attempt_status
from agentlightning.store.tracking import Tracker, public_method, register_metrics
from agentlightning.store.watchdog import Watchdog
from agentlightning.types import Attempt, AttemptStatus, Rollout

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="StoreFrame")
Step = Callable[[Transaction], Awaitable[T]]
if TYPE_CHECKING:
    # Subscripting this type at run time takes Python 3.13.
    Method = Callable[Concatenate[S, P], CoroutineType[Any, Any, T]]

_ALL: Final[tuple[AtomicLabels, ...]] = (
    "rollouts",
    "attempts",
    "spans",
    "resources",
    "workers",
    "rollout_queue",
    "span_sequence_ids",
)
_RUNS: Final = 4
"""How often a step is run at most when somebody else keeps inserting what it wants to insert."""
_NOTHING: Final = Changes()
"""What all reading steps write."""
_TICK: Final = 0.001
"""Seconds after a deadline at which it has certainly passed."""
_MOST_AT_ONCE: Final = 500
"""Lost attempts that are ended in one step."""


_scanning: Final[dict[Any, Any]] = {}
"""What `healthcheck_before` made, and the methods in there."""


def tracked(method: Method[S, P, T]) -> Method[S, P, T]:
    """Count a public method's calls and measure their duration, when there is a tracker.

    Metrics `agl.store.total` and `agl.store.latency` (seconds); `status` is `ok` or the name of
    the exception's class.
    """
    name = method.__name__
    # Perf: both decorators of a method make one coroutine.
    scans = method in _scanning
    call: Method[S, P, T] = _scanning.get(method, method)

    @functools.wraps(method)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        tracker = self.tracker
        if tracker is None:
            if scans and monotonic() >= self._next_scan:
                await self.scan_if_due()
            return await call(self, *args, **kwargs)
        began = monotonic()
        status = "ok"
        serving = public_method.set(name)
        try:
            if scans:
                await self.scan_if_due()
            return await call(self, *args, **kwargs)
        except BaseException as error:
            status = type(error).__name__
            raise
        finally:
            public_method.reset(serving)
            labels = {"method": name, "store_pubmeth": name, "status": status}
            await tracker.inc_counter("agl.store.total", 1.0, labels)
            await tracker.observe_histogram("agl.store.latency", monotonic() - began, labels)

    return wrapper


def healthcheck_before(method: Method[S, P, T]) -> Method[S, P, T]:
    """Look for lost attempts first, at most once per `scan_debounce_seconds`."""

    @functools.wraps(method)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if monotonic() >= self._next_scan:
            await self.scan_if_due()
        return await method(self, *args, **kwargs)

    _scanning[wrapper] = method
    return wrapper


class StoreFrame(LightningStore):
    """Atomic steps over collections, with events, metrics and a watchdog."""

    def __init__(
        self,
        collections: LightningCollections,
        *,
        read_snapshot: bool = False,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        self.tracker: Tracker | None = tracker
        if tracker is not None:
            register_metrics(tracker)
            collections = metered(collections, tracker)
        self.collections = collections
        self._read_snapshot = read_snapshot
        self._scan_debounce_seconds = scan_debounce_seconds
        self._next_scan = 0.0
        self._opened = monotonic()
        self._opened_time = now()
        journal = collections.events
        self._own_journal = MemoryJournal() if journal is None else None
        self._changes = ChangeLog(journal or self._own_journal or MemoryJournal())
        # A backend that belongs to one event loop cannot be scanned from another thread.
        self._watchdog = Watchdog(self.scan) if collections.loop_agnostic else None
        self._next_deadline = math.inf
        self._follower = Watchdog(self._catch_up, "agentlightning-follower")
        self._watch_guard = threading.Lock()
        self._watches = False
        self._stop_watch: Callable[[], None] | None = None

    def __reduce__(self) -> NoReturn:
        raise StoreError(
            f"{type(self).__name__} keeps its data in this process and cannot be pickled; "
            "serve it with LightningStoreServer and send a LightningStoreClient instead."
        )

    async def last_event_seq(self) -> int:
        return await self._changes.journal.last_seq()

    async def close(self) -> None:
        with self._watch_guard:
            self._watches = True
            stop, self._stop_watch = self._stop_watch, None
        if stop is not None:
            stop()
        self._follower.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        await self.collections.close()

    def _watch(self) -> None:
        """Hear of what other processes commit from now on; for calls that wait."""
        if self._watches or not self.collections.loop_agnostic:
            return
        with self._watch_guard:
            if not self._watches:
                self._watches = True
                # The follower only knows this store weakly, so that watching keeps nothing alive.
                self._stop_watch = self.collections.watch(self._follower.expect_now)

    async def _catch_up(self) -> None:
        """Wake whom the events of other processes concern; runs on the follower's thread."""
        events = await self._changes.catch_up()
        if any(e.kind == "attempt_started" for e in events):
            # Whoever started them may die, and then only others can see them run out.
            self._expect(now() + self._scan_debounce_seconds)

    async def _write(self, step: Step[T]) -> T:
        """Run a step that changes something, have its changes written, then tell of them.

        The step may be run several times, each time from the start, and only the last run counts:
        it must not keep anything outside of its transaction.
        """
        transaction: Transaction | None = None

        async def body(rows: LightningCollections) -> T:
            nonlocal transaction
            transaction = Transaction(rows, now())
            result = await step(transaction)
            await rows.apply(transaction.changes)
            return result

        runs = 0
        while True:
            try:
                result = await self.collections.execute(body, mode="rw", commit=True, labels=_ALL)
                break
            except DuplicatedPrimaryKeyError:
                # Somebody else was quicker: the step finds what they wrote when it looks again.
                runs += 1
                if runs == _RUNS:
                    raise
            except CommittedThenCancelledError:
                self._tell(transaction)
                raise
        self._tell(transaction)
        if self._is_crowded():
            await self._make_room()
        return result

    def _once(self, name: str, step: Step[T], answer: Answer[T]) -> Awaitable[T]:
        """Run a writing step, but answer a repeat of the same call without running it again.

        Two calls are the same if they carry the same idempotency key and ask for the same thing,
        which `name` says. Without a key this is `_write`.
        """
        given = current_idempotency_key()
        if given is None:
            return self._write(step)

        async def keyed(tx: Transaction) -> T:
            key = f"{name}:{given}"
            while (reply := await tx.rows.find_reply(key)) is not None:
                known = await answer.read(tx, reply.refs)
                if known:
                    return known
                # A lost claim is made anew, and remembered beside the lost one.
                key += "+"
            result = await step(tx)
            refs = answer.refs(result)
            if refs:
                tx.changes.reply = Reply(key, tx.now, refs)
            return result

        return self._write(keyed)

    def _tell(self, transaction: Transaction | None) -> None:
        """Announce what a step wrote."""
        if transaction is None:
            return
        changes = transaction.changes
        if changes.told:
            if self._own_journal is not None:
                changes.last_seq = self._own_journal.add(changes.told)
            if changes.last_seq is None:
                self._changes.announce(changes.events)
            else:
                self._changes.tell(changes.told, changes.last_seq)
        if transaction.deadline is not None:
            self._expect(transaction.deadline)

    def _expect(self, when: float) -> None:
        """Have somebody look for lost attempts at this time: the watchdog, or whoever waits."""
        if self._watchdog is not None:
            self._watchdog.expect(when)
        else:
            self._next_deadline = min(self._next_deadline, when)

    async def _pause(self, waiter: Waiter, left: float | None) -> None:
        """Let a waiting call sleep until it is woken, at most `left` seconds, or until it had
        better look by itself.
        """
        seconds = RECHECK_SECONDS if left is None else min(left, RECHECK_SECONDS)
        await waiter.wait(min(seconds, max(_TICK, self._next_deadline - now())))
        if now() > self._next_deadline:
            self._next_deadline = math.inf
            await self.scan()
        else:
            await self.scan_if_due()

    async def _read(self, step: Step[T], labels: Sequence[AtomicLabels] = _ALL) -> T:
        """Run a step that only reads."""

        async def body(rows: LightningCollections) -> T:
            return await step(Transaction(rows, now(), _NOTHING))

        return await self.collections.execute(
            body, mode="r", snapshot=self._read_snapshot, labels=labels
        )

    async def scan_if_due(self) -> None:
        """Scan, unless the last scan was less than `scan_debounce_seconds` ago."""
        if monotonic() < self._next_scan:
            return
        self._next_scan = monotonic() + self._scan_debounce_seconds
        await self.scan()

    async def scan(self) -> float | None:
        """End the attempts that ran out of time, and return the next deadline, if any."""
        upcoming, expired = await self._read(self._find_expired)
        for start in range(0, len(expired), _MOST_AT_ONCE):
            batch = expired[start : start + _MOST_AT_ONCE]
            await self._write(functools.partial(self._expire, batch))
        if upcoming is not None:
            self._expect(upcoming)
        return upcoming

    async def _find_expired(self, tx: Transaction) -> tuple[float | None, list[str]]:
        """Return the earliest deadline to come, and the rollouts whose attempts are overdue."""
        upcoming: float | None = None
        expired: list[str] = []
        for rollout, attempt in await tx.rows.find_active():
            limit = deadline(rollout, attempt, reachable_since=self._opened_time)
            if self._expiry(rollout, attempt, tx.now) is not None:
                expired.append(rollout.rollout_id)
            elif limit is not None:
                upcoming = limit if upcoming is None else min(upcoming, limit)
        return upcoming, expired

    def _expiry(self, rollout: Rollout, attempt: Attempt, at: float) -> AttemptStatus | None:
        return expiry(rollout, attempt, now=at, reachable_since=self._opened_time)

    async def _expire(self, rollout_ids: Sequence[str], tx: Transaction) -> None:
        await tx.load(rollout_ids)
        for rollout_id in rollout_ids:
            rollout, attempt = await tx.rollout_with_latest(rollout_id)
            if rollout is None or attempt is None:
                continue
            # Looked at again, because the read was another transaction.
            status = self._expiry(rollout, attempt, tx.now)
            if status is None:
                continue
            lost = lease_ran_out(attempt, now=tx.now, reachable_since=self._opened_time)
            outcome = on_attempt_status(
                rollout,
                attempt,
                status,
                latest=True,
                now=tx.now,
                worker_lost=lost and status == "unresponsive",
            )
            await tx.apply(rollout, attempt, outcome)
            await tx.release_worker(outcome.attempt)
            logger.info(
                "attempt ran out of time",
                extra={"rollout_id": rollout_id, "attempt_id": attempt.attempt_id},
            )

    def _is_crowded(self) -> bool:
        """Return whether a store must give something up after a write."""
        return False

    async def _make_room(self) -> None:
        """Give up what a crowded store can do without."""

    async def _check_spans_kept(self, rollout_id: str) -> None:
        """Raise if spans of a rollout were given up to make room."""
