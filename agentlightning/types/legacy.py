"""Models of the v0.1 HTTP protocol, kept so that old clients can still be served."""

from typing import TYPE_CHECKING, Any, Union

from pydantic import BaseModel, Field

from agentlightning.types.rollout import RolloutMode, TaskInput, Triplet

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Task(BaseModel):
    """One unit of work as v0.1 clients poll it."""

    rollout_id: str
    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    create_time: float | None = None
    last_claim_time: float | None = None
    num_claims: int | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class TaskIfAny(BaseModel):
    """Reply to a v0.1 poll."""

    is_available: bool
    task: Task | None = None


class RolloutLegacy(BaseModel):
    """Result of one task as v0.1 clients post it."""

    rollout_id: str
    task: Task | None = None
    final_reward: float | None = None
    triplets: list[Triplet] | None = None
    trace: list[dict[str, Any]] | None = None
    logs: list[str] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class GenericResponse(BaseModel):
    """Plain acknowledgement of the v0.1 server."""

    status: str = "success"
    message: str | None = None
    data: dict[str, Any] | None = None


RolloutRawResultLegacy = Union[
    None, float, list[Triplet], list[dict[str, Any]], list["ReadableSpan"], RolloutLegacy
]
"""What a v0.1 agent may return."""
