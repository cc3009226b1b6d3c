"""The store's contract about rollouts and attempts: making, claiming, reading and changing them.

`agentlightning.store.base.LightningStore` is the whole contract. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agentlightning.store.vocabulary import UNSET, FilterLogic, SortOrder, Unset

if TYPE_CHECKING:
    from agentlightning.types import (
        Attempt,
        AttemptedRollout,
        AttemptStatus,
        EnqueueRolloutRequest,
        Rollout,
        RolloutConfig,
        RolloutMode,
        RolloutStatus,
        TaskInput,
    )


class RolloutContract:
    """The part of `LightningStore` that is about rollouts and attempts."""

    # Rollouts: making and claiming them.

    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
        *,
        rollout_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> AttemptedRollout:
        """Create a rollout with its first attempt, past the queue.

        Args:
            input: The task, any JSON value.
            mode: What the rollout is for.
            resources_id: Snapshot to pin it to; None takes the latest, if there is one.
            config: Time limits and retries.
            metadata: Free key-values, kept with the rollout.
            worker_id: The worker that executes it, which becomes busy.
            rollout_id: An id made by the caller; one that was started already is returned as it
                is, with its latest attempt.
            lease_seconds: See `dequeue_rollout`.

        Raises:
            ConflictError: The id belongs to a rollout that was enqueued and never started.
        """
        raise NotImplementedError

    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        rollout_id: str | None = None,
    ) -> Rollout:
        """Put a task at the tail of the queue; the snapshot is resolved now, or at the claim
        when none exists yet.
        """
        raise NotImplementedError

    async def enqueue_many_rollouts(
        self, rollouts: Sequence[EnqueueRolloutRequest]
    ) -> Sequence[Rollout]:
        """Put several tasks into the queue in one step, and return them in the same order."""
        raise NotImplementedError

    async def dequeue_rollout(
        self,
        worker_id: str | None = None,
        *,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AttemptedRollout | None:
        """Claim the rollout at the head of the queue under a new attempt.

        With a lease the worker has to show that it lives: an attempt without a span or an
        `update_attempt` for `lease_seconds` ends as `unresponsive`, by the store's own clock, and
        its rollout is queued again whatever `retry_condition` says; a rollout that loses its
        workers again and again fails after three attempts beyond `max_attempts`. What the old
        worker writes from then on is kept, marked as late, and changes nothing. While the store
        is closed leases do not run: opened again, it gives every worker its full time.

        Args:
            worker_id: The claiming worker, which becomes busy (or idle, if nothing is there).
            wait_seconds: How long to wait for work; the caller is woken as soon as there is some.
            lease_seconds: Longest silence; None leaves the attempt to its rollout's `config`.
            metadata: Claim only a rollout whose metadata holds all of these pairs, each value
                equal; others keep their place in line.
        """
        raise NotImplementedError

    async def dequeue_many_rollouts(
        self,
        *,
        limit: int = 1,
        worker_id: str | None = None,
        wait_seconds: float = 0.0,
        lease_seconds: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[AttemptedRollout]:
        """Claim up to `limit` rollouts; returns what is there, waiting only for the first. The
        other arguments are those of `dequeue_rollout`.
        """
        raise NotImplementedError

    async def start_attempt(
        self,
        rollout_id: str,
        worker_id: str | None = None,
        *,
        attempt_id: str | None = None,
        lease_seconds: float | None = None,
    ) -> AttemptedRollout:
        """Begin another attempt of a rollout now, whatever its retry settings say.

        An attempt that is still under way is taken away from its worker: it ends as `failed` with
        the outcome `interrupted` in its metadata, and what its worker reports later is kept as
        late. So a rollout has one live attempt at most, its latest.

        Args:
            rollout_id: The rollout.
            worker_id: The worker that executes the attempt, which becomes busy.
            attempt_id: An id made by the caller; an attempt that the rollout has already is
                returned as it is.
            lease_seconds: See `dequeue_rollout`.

        Raises:
            NotFoundError: The rollout is unknown.
            InvalidTransitionError: The rollout is cancelled.
        """
        raise NotImplementedError

    # Reading rollouts and attempts.

    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        mode_in: Sequence[RolloutMode] | None = None,
        filter_logic: FilterLogic = "and",
        sort_by: str | None = None,
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Rollout | AttemptedRollout]:
        """Return a page of rollouts, each with its latest attempt if it has one.

        `metadata` asks for rollouts whose metadata holds all of these pairs, each value equal; it
        is one filter, joined to the others by `filter_logic`.
        `status` and `rollout_ids` are deprecated names of `status_in` and `rollout_id_in`.
        """
        raise NotImplementedError

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: SortOrder = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> Sequence[Attempt]:
        """Return a page of a rollout's attempts; empty when the rollout is unknown."""
        raise NotImplementedError

    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | AttemptedRollout | None:
        """Return one rollout with its latest attempt, or None."""
        raise NotImplementedError

    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the attempt with the highest sequence id, or None."""
        raise NotImplementedError

    async def wait_for_rollouts(
        self, *, rollout_ids: list[str], timeout: float | None = None
    ) -> list[Rollout]:
        """Wait until all of these rollouts have ended, or `timeout` seconds passed.

        Returns:
            Those that have ended, in the order asked for; unknown ids are left out, and do not
            keep the call waiting.
        """
        raise NotImplementedError

    # Changing rollouts and attempts.

    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput | Unset = UNSET,
        mode: RolloutMode | Unset | None = UNSET,
        resources_id: str | Unset | None = UNSET,
        status: RolloutStatus | Unset = UNSET,
        config: RolloutConfig | Unset = UNSET,
        metadata: dict[str, Any] | Unset | None = UNSET,
    ) -> Rollout:
        """Change the given fields of a rollout.

        Setting `queuing` or `requeuing` puts it back into the queue; setting a terminal status
        ends it. Either way an attempt under way is taken away from its worker: it ends at once,
        `succeeded` or `failed` like its rollout, else `failed` with the outcome `cancelled` or
        `interrupted` in its metadata, and what its worker reports later is kept as late.

        Raises:
            NotFoundError: The rollout is unknown.
            InvalidTransitionError: The state machine forbids the change.
        """
        raise NotImplementedError

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus | Unset = UNSET,
        worker_id: str | Unset = UNSET,
        last_heartbeat_time: float | Unset = UNSET,
        metadata: dict[str, Any] | Unset = UNSET,
    ) -> Attempt:
        """Change the given fields of an attempt; its status carries over to the rollout when
        it is the latest attempt and the rollout has not ended.

        Every call renews the lease of an attempt that has one, by the store's own clock: with a
        lease, `last_heartbeat_time` asks for a renewal and its value does not matter. The attempt
        that is returned has ended when the lease was lost.

        Raises:
            NotFoundError: The rollout or the attempt is unknown.
        """
        raise NotImplementedError

    async def finish_rollout(
        self,
        rollout_id: str,
        attempt_id: str | None = None,
        *,
        reward: float | dict[str, float] | None = None,
        output: Any = None,
    ) -> Rollout:
        """Settle an attempt (the latest, if none is named) as succeeded.

        A reward is stored as an annotation span first; an output is kept in the attempt's
        metadata.
        """
        raise NotImplementedError

    async def fail_rollout(
        self, rollout_id: str, attempt_id: str | None = None, *, error: str | None = None
    ) -> Rollout:
        """Settle an attempt (the latest, if none is named) as failed, keeping the error."""
        raise NotImplementedError

    async def list_rollouts(self, **filters: Any) -> Sequence[Rollout | AttemptedRollout]:
        """Do what `query_rollouts` does."""
        return await self.query_rollouts(**filters)
