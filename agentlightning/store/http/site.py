"""What the requests of one server share: the store, limits, shutdown, and replays.

A `Site` lives in one event loop at a time and is not thread-safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from agentlightning._internal.aio import WaitLine
from agentlightning._internal.clock import monotonic
from agentlightning.errors import StoreError
from agentlightning.store.base import LightningStore
from agentlightning.store.collection_based.frame import StoreFrame
from agentlightning.store.http.exchange import Reply
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.threading import LightningStoreThreaded
from agentlightning.types import AttemptedRollout

if TYPE_CHECKING:
    from agentlightning.store.http.schemas import DequeueRequest
    from agentlightning.utils.metrics import MetricsBackend

__all__ = ["DEFAULT_BODY_LIMIT", "ReplayLedger", "Site"]

logger = logging.getLogger(__name__)

DEFAULT_BODY_LIMIT: Final = 256 * 1024 * 1024
CLAIM_GRACE_SECONDS: Final = 10.0
"""How long a claim waits for its client to ask again, before the work goes back."""

REJECTED_METRIC: Final = "agl.otlp.rejected"

_NOTHING: Final = b"[]"
"""The answer to a claim that found no work: a repeat looks again."""

FOREIGN_POLL_SECONDS: Final = 0.5
"""How often a store that cannot wait is asked for work while a request waits, for work that did not
come through the server."""


class ReplayLedger:
    """Recent requests by idempotency key, so that a repeat gets the answer of the first.

    A repeat that comes while the first request runs shares its answer, however many others come
    meanwhile. What is answered is kept only where asked for: a store that keeps its answers itself
    gives the records as they are now. Failures are not kept, so that a repeat tries again. The
    ledger does not outlive the server.
    """

    def __init__(self, capacity: int = 2048, max_bytes: int = 1024 * 1024) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._answers: OrderedDict[str, asyncio.Future[Reply] | None] = OrderedDict()
        """None where a request has been answered, and its answer is not kept."""
        self._repeated: set[str] = set()
        self._watches: dict[str, list[asyncio.Event]] = {}

    @contextlib.contextmanager
    def watching(self, key: str) -> Generator[asyncio.Event]:
        """Yield an event that is set once a request has been repeated.

        It misses no repeat, however many other requests come meanwhile.
        """
        repeated = asyncio.Event()
        if key in self._repeated:
            repeated.set()
        watches = self._watches.setdefault(key, [])
        watches.append(repeated)
        try:
            yield repeated
        finally:
            watches.remove(repeated)
            if not watches:
                del self._watches[key]

    def forget(self, key: str) -> None:
        """Drop an answer, so that a repeat is a new request."""
        self._answers.pop(key, None)
        self._repeated.discard(key)

    async def once(
        self, key: str, produce: Callable[[], Awaitable[Reply]], *, keep: bool = True
    ) -> Reply:
        """Return the answer for `key`, producing it unless it is there or on its way."""
        known = self._answers.get(key)
        if key in self._answers:
            self._repeated.add(key)
        for repeated in self._watches.get(key, ()):
            repeated.set()
        if known is not None:
            return await asyncio.shield(known)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        try:
            reply = await produce()
        except BaseException as error:
            self.forget(key)
            for repeated in self._watches.get(key, ()):
                repeated.clear()
            answer.set_exception(error if isinstance(error, Exception) else _aborted())
            # Why: asyncio complains about a failure that no repeat has waited for.
            answer.exception()
            raise
        kept = keep and reply.body != _NOTHING and len(reply.body) <= self._max_bytes
        if kept:
            # Perf: what orjson gives out takes over ten times its length until it is copied.
            reply = replace(reply, body=memoryview(reply.body).tobytes())
        else:
            self._answers[key] = None
        answer.set_result(reply)
        self._make_room()
        return reply

    def _make_room(self) -> None:
        for _ in range(len(self._answers) - self._capacity):
            oldest, answer = self._answers.popitem(last=False)
            if answer is not None and not answer.done():
                # A long wait outlasts thousands of others; its repeat must not run beside it.
                self._answers[oldest] = answer
            else:
                self._repeated.discard(oldest)


def _query_of(store: LightningStore) -> Any:
    """Return the function that answers when a store is asked for spans."""
    return getattr(store.query_spans, "__func__", None)


def _aborted() -> Exception:
    return ConnectionAbortedError("the first request was aborted")


class Site:
    """The served store and everything that outlives a single request.

    Args:
        store: The store; it must be safe to call from the server's event loop.
        body_limit: Largest accepted body in bytes, after decompression.
        tracker: Where spans that are not taken are counted.
    """

    def __init__(
        self,
        store: LightningStore,
        *,
        body_limit: int = DEFAULT_BODY_LIMIT,
        tracker: MetricsBackend | None = None,
    ) -> None:
        self.store = store
        self.body_limit = body_limit
        self.rejected_spans: Counter[str] = Counter()
        """OpenTelemetry spans that were not stored, by reason."""
        self._tracker = tracker
        if tracker is not None:
            tracker.register_counter(REJECTED_METRIC, ("reason",))
        self.ledger = ReplayLedger()
        self.closing = asyncio.Event()
        self.undoes_claims = isinstance(store, StoreFrame)
        """A claim that is cancelled while it waits has claimed nothing, or gives it back."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._can_wait: bool | None = None
        self._work = WaitLine()

    def keeps_replies(self) -> bool:
        """Return whether the store answers repeats itself, as stores with replies do."""
        store = self.store
        while isinstance(store, LightningStoreThreaded):
            store = store.store
        return isinstance(store, StoreFrame) and store.collections.keeps_replies

    def packs_spans(self) -> bool:
        """Return whether the store may be asked for packed spans: no code of a user's sees them."""
        store = self.store
        while _query_of(store) is LightningStoreThreaded.query_spans:
            store = cast("LightningStoreThreaded", store).store
        own = _query_of(store) is InMemoryLightningStore.query_spans
        return own and isinstance(store, InMemoryLightningStore)

    async def claim(
        self, request: DequeueRequest, wait_seconds: float
    ) -> Sequence[AttemptedRollout]:
        """Claim work, waiting up to `wait_seconds` for the first of it."""
        dequeue = self.store.dequeue_many_rollouts
        asked: dict[str, Any] = {"limit": request.limit, "worker_id": request.worker_id}
        asked |= request.given("lease_seconds", "metadata")
        if wait_seconds == 0:
            return await dequeue(**asked)
        if self._can_wait is None:
            self._can_wait = "wait_seconds" in inspect.signature(dequeue).parameters
        if self._can_wait:
            return await dequeue(**asked, wait_seconds=wait_seconds)
        # Compat 0.3.0: stores of users may lack the parameter, and can only be asked again.
        deadline = monotonic() + wait_seconds
        while True:
            # Joining before asking closes the gap in which a wake-up would be lost.
            waiter = self._work.join()
            try:
                claims = await dequeue(**asked)
                left = deadline - monotonic()
                if claims or left <= 0 or self.closing.is_set():
                    return claims
                await waiter.wait(min(FOREIGN_POLL_SECONDS, left))
            finally:
                self._work.leave(waiter)

    def work_came(self) -> None:
        """Have claims look again that wait for a store which cannot wait itself."""
        if len(self._work):
            self._work.wake_all()

    async def note_rejected(self, counts: Mapping[str, int]) -> None:
        """Count spans that were not stored, by reason."""
        self.rejected_spans.update(counts)
        if self._tracker is not None:
            for reason, count in counts.items():
                if count:
                    await self._tracker.inc_counter(REJECTED_METRIC, count, {"reason": reason})

    def open(self) -> None:
        """Begin to serve in the running loop."""
        self.ledger = ReplayLedger()
        self.closing = asyncio.Event()

    def begin_closing(self) -> None:
        """End waits and streams, so that the server can stop."""
        self.closing.set()
        self.work_came()

    async def drain(self) -> None:
        """Wait for what requests left behind; called when the last one has been answered."""
        self.closing.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def give_back(self, claims: Sequence[AttemptedRollout], key: str | None) -> None:
        """Requeue work whose claimant is gone, unless it repeats its request soon."""
        task = asyncio.create_task(self._give_back(claims, key))
        self._spawned(task)

    async def _give_back(self, claims: Sequence[AttemptedRollout], key: str | None) -> None:
        if key is not None:
            with self.ledger.watching(key) as repeated:
                await self.pause(CLAIM_GRACE_SECONDS)
                if repeated.is_set():
                    return
            self.ledger.forget(key)
        for claim in claims:
            try:
                await self._requeue(claim)
            except StoreError as error:
                # Somebody ended it just now, or the store is away: the others go back all the same.
                logger.warning(
                    "rollout could not be given back",
                    extra={"rollout_id": claim.rollout_id},
                    exc_info=error,
                )

    async def _requeue(self, claim: AttemptedRollout) -> None:
        attempt = await self.store.get_latest_attempt(claim.rollout_id)
        if attempt is None or attempt.attempt_id != claim.attempt.attempt_id or attempt.end_time:
            # Taken from the claimant meanwhile: it may be somebody else's, who works on it.
            return
        logger.warning(
            "claimant is gone, rollout goes back to the queue",
            extra={"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id},
        )
        await self.store.update_rollout(claim.rollout_id, status="requeuing")

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past the server's closing."""
        waiting = asyncio.ensure_future(self.closing.wait())
        await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)

        def finished(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and done.exception() is not None:
                logger.error("background work failed", exc_info=done.exception())

        task.add_done_callback(finished)


async def first_of(
    work: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]
) -> tuple[Any, bool]:
    """Run `work` until it ends or one of `others` does.

    Returns:
        The result of `work` and True, or None and False when another ended first; `work` is
        then cancelled and has ended.
    """
    main = asyncio.ensure_future(work)
    rest = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait({main, *rest}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in rest:
            task.cancel()
        if not main.done():
            main.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
    if main.cancelled() or not main.done():
        await asyncio.gather(main, return_exceptions=True)
    if main.cancelled():
        return None, False
    return main.result(), True
