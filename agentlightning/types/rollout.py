"""The units of work: a rollout, its attempts, and how they may be retried. Data only."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

TaskInput = Any
"""A task as the user gave it; any JSON value."""

RolloutStatus = Literal[
    "queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"
]
AttemptStatus = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
RolloutMode = Literal["train", "val", "test"]


class Triplet(BaseModel):
    """One model call as prompt, response and reward."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Attempt(BaseModel):
    """One execution of a rollout by one worker."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    """Position among the rollout's attempts, from 1."""
    start_time: float
    """Unix seconds."""
    end_time: float | None = None
    """Unix seconds; set on every ended attempt, whatever ended it."""
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    """Unix seconds of the last span or explicit renewal."""
    metadata: dict[str, Any] | None = None
    """Free; the runner writes `manifest`, `outcome` and `output` here when it settles."""
    lease_seconds: float | None = Field(default=None, gt=0)
    """Longest silence that the claim allows its worker, who renews it; None when it claimed
    without a lease, and then not in JSON, which is that of 0.3.0."""

    # The return type is left to be inferred: written down, it would take the schema's place.
    @model_serializer(mode="wrap")
    def _leave_out_no_lease(self, handler: SerializerFunctionWrapHandler):
        fields = handler(self)
        if self.lease_seconds is None:
            fields.pop("lease_seconds", None)
        return fields


class RolloutConfig(BaseModel):
    """When an attempt counts as lost, and whether the rollout is then tried again."""

    timeout_seconds: float | None = None
    """Longest life of one attempt, counted from the attempt's start; None for no limit."""
    unresponsive_seconds: float | None = None
    """Longest silence (no span, no heartbeat) of an attempt; None for no limit."""
    max_attempts: int = Field(default=1, ge=1)
    retry_condition: list[AttemptStatus] = Field(default_factory=list)
    """Statuses after which another attempt is made, while `max_attempts` allows."""


class Rollout(BaseModel):
    """One task to be executed, and what became of it."""

    rollout_id: str
    input: TaskInput
    start_time: float
    """Unix seconds of creation."""
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    """The resources snapshot this rollout is pinned to."""
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: dict[str, Any] | None = None


class AttemptedRollout(Rollout):
    """A rollout together with one of its attempts (the latest, unless said otherwise)."""

    attempt: Attempt

    @model_validator(mode="after")
    def _same_rollout(self) -> "AttemptedRollout":
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(
                f"Attempt {self.attempt.attempt_id} belongs to rollout "
                f"{self.attempt.rollout_id}, not to {self.rollout_id}."
            )
        return self


class EnqueueRolloutRequest(BaseModel):
    """What is needed to put one rollout into the queue."""

    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None
    rollout_id: str | None = None
    """An id made by the caller, so that the request can be repeated safely; None lets the store
    make one. Enqueueing an id that is there already returns the stored rollout unchanged."""
