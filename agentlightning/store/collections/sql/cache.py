"""Records that a connection has read or written lately, so that the next step need not read them.

Valid only while nobody else writes; whoever owns the connection calls `clear` when that may have
happened, and when a transaction is rolled back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from agentlightning.store.vocabulary import is_finished
from agentlightning.types import Attempt, ResourcesUpdate, Rollout, Worker

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOST: Final = 4096
_MOST_ENDED: Final = 256
UNKNOWN: Final = Attempt.model_construct(sequence_id=-1)
"""Stands for an attempt where nothing is known, as None stands for knowing that there is none."""


class Recent(Generic[K, V]):
    """The values that were put last, up to a limit; the oldest go first."""

    __slots__ = ("_limit", "_values", "get")

    def __init__(self, limit: int = _MOST) -> None:
        self._limit = limit
        self._values: dict[K, V] = {}
        self.get = self._values.get

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        values = self._values
        values[key] = value
        if len(values) > self._limit:
            # A tenth at once: looking for the oldest costs as much as passing over the gone.
            for old in list(islice(values, self._limit // 10 + 1)):
                del values[old]

    def drop(self, key: K) -> None:
        """Forget a value."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()


class RecordCache:
    """What a session knows of the database without asking."""

    def __init__(self) -> None:
        self.rollouts: Recent[str, Rollout] = Recent()
        self.latest: Recent[str, Attempt | None] = Recent()
        """Each rollout's attempt with the highest sequence id; None when it has no attempt."""
        self.workers: Recent[str, Worker] = Recent()
        self.sequence_ids: Recent[str, int] = Recent()
        self.newest_known = False
        self.newest: ResourcesUpdate | None = None
        """The snapshot that was published last, if `newest_known`."""
        self.last_seq: int | None = None
        self.queued: Recent[str, int] = Recent()
        """Where ids were seen in the queue."""
        self._ended: deque[str] = deque()

    def note(self, rollout: Rollout) -> None:
        """Keep a rollout; of those that have ended, only the last few hundred.

        They are hardly asked for again, and their tasks may be large.
        """
        self.rollouts.put(rollout.rollout_id, rollout)
        if not is_finished(rollout):
            return
        self._ended.append(rollout.rollout_id)
        while len(self._ended) > _MOST_ENDED:
            gone = self._ended.popleft()
            for recent in (self.rollouts, self.latest, self.sequence_ids, self.queued):
                recent.drop(gone)

    def clear(self) -> None:
        """Forget everything."""
        self.rollouts.clear()
        self.latest.clear()
        self.workers.clear()
        self.sequence_ids.clear()
        self.queued.clear()
        self._ended.clear()
        self.newest_known = False
        self.newest = None
        self.last_seq = None
