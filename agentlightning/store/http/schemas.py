"""Bodies and queries of the store's routes, as pydantic models; no behaviour but their checks.

What has the wrong shape is answered 422; what has the right shape and an impossible value (a
page size, a sort field) is answered 400, as 0.3.0 did.
"""

from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    TypeAdapter,
    field_validator,
)

from agentlightning.errors import InvalidRequestError
from agentlightning.store.http.wire import MAX_INTEGER, decode
from agentlightning.types import (
    Attempt,
    AttemptStatus,
    EnqueueRolloutRequest,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    TaskInput,
    Worker,
    WorkerStatus,
)

__all__ = [
    "AttemptSearch",
    "AttemptUpdate",
    "DequeueRequest",
    "EnqueueRequest",
    "FailRequest",
    "FinishRequest",
    "ResourceSearch",
    "RolloutSearch",
    "RolloutUpdate",
    "Search",
    "SequenceIdRequest",
    "SequenceIdsRequest",
    "SpanSearch",
    "StartAttemptRequest",
    "StartRequest",
    "WaitRequest",
    "WorkerSearch",
    "WorkerUpdate",
    "reject_nulls",
]

Identifier = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""Any text without control characters, which logs and databases do not take well."""
Fragment = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
"""Text that an id or a name may hold."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Lease = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
"""Longest silence of a worker in seconds."""


_identifier: Final = TypeAdapter[str](Identifier)


def _from_json(value: Any) -> Any:
    """Return what a query string spells as JSON text."""
    return decode(value.encode()) if isinstance(value, str) else value


def _sortable(model: type[BaseModel], *unsortable: str) -> frozenset[str]:
    return frozenset(model.model_fields) - set(unsortable)


class Search(BaseModel):
    """What every listing takes."""

    sortable: ClassVar[frozenset[str]] = frozenset()

    limit: int = -1
    """Page size from 1; -1 for no limit."""
    offset: int = 0
    sort_by: str | None = None
    sort_order: str = "asc"

    def checked(self) -> dict[str, Any]:
        """Return the keyword arguments of the store's query, without what was not given.

        Raises:
            InvalidRequestError: A value is out of range.
        """
        if not (self.limit == -1 or 0 < self.limit <= MAX_INTEGER):
            raise InvalidRequestError(f"limit is {self.limit}: use a positive number, or -1.")
        if not 0 <= self.offset <= MAX_INTEGER:
            raise InvalidRequestError(f"offset is {self.offset}: use 0 or a positive number.")
        if self.sort_order not in ("asc", "desc"):
            raise InvalidRequestError(f"sort_order is {self.sort_order!r}: use 'asc' or 'desc'.")
        if self.sort_by is not None and self.sort_by not in self.sortable:
            raise InvalidRequestError(
                f"sort_by is {self.sort_by!r}: use one of {', '.join(sorted(self.sortable))}."
            )
        return {name: getattr(self, name) for name in self.given()}

    def given(self) -> list[str]:
        """Return the names of the fields that are not None."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


class FilteredSearch(Search):
    """A listing whose filters may be joined by "or"."""

    filter_logic: str = "and"

    def checked(self) -> dict[str, Any]:
        if self.filter_logic not in ("and", "or"):
            raise InvalidRequestError(f"filter_logic is {self.filter_logic!r}: use 'and' or 'or'.")
        return super().checked()


class RolloutSearch(FilteredSearch):
    """Query of rollouts."""

    sortable = _sortable(Rollout, "input", "config", "metadata")

    status_in: list[RolloutStatus] | None = None
    rollout_id_in: list[Fragment] | None = None
    rollout_id_contains: Fragment | None = None
    mode_in: list[RolloutMode] | None = None
    metadata: Annotated[dict[str, Any], BeforeValidator(_from_json)] | None = None
    """Pairs that a rollout's metadata must hold; in a query string as JSON text."""


class AttemptSearch(Search):
    """Query of the attempts of one rollout."""

    sortable = _sortable(Attempt, "metadata")

    sort_by: str | None = "sequence_id"


class SpanSearch(FilteredSearch):
    """Query of the spans of one rollout."""

    sortable = _sortable(
        Span, "status", "attributes", "events", "links", "context", "parent", "resource"
    )

    rollout_id: Identifier
    attempt_id: Fragment | None = None
    trace_id: Fragment | None = None
    trace_id_contains: Fragment | None = None
    span_id: Fragment | None = None
    span_id_contains: Fragment | None = None
    parent_id: Fragment | None = None
    parent_id_contains: Fragment | None = None
    name: Fragment | None = None
    name_contains: Fragment | None = None
    sort_by: str | None = "sequence_id"


class WorkerSearch(FilteredSearch):
    """Query of workers."""

    sortable = _sortable(Worker, "heartbeat_stats")

    status_in: list[WorkerStatus] | None = None
    worker_id_contains: Fragment | None = None


class ResourceSearch(Search):
    """Query of resource snapshots."""

    sortable = _sortable(ResourcesUpdate, "resources")

    resources_id: Fragment | None = None
    resources_id_contains: Fragment | None = None


class Request(BaseModel):
    """A body whose fields may be passed on."""

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the fields that are not None."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class EnqueueRequest(BaseModel):
    """Rollouts to put into the queue, in order."""

    rollouts: list[EnqueueRolloutRequest]

    @field_validator("rollouts")
    @classmethod
    def _usable_ids(cls, rollouts: list[EnqueueRolloutRequest]) -> list[EnqueueRolloutRequest]:
        for request in rollouts:
            if request.rollout_id is not None:
                _identifier.validate_python(request.rollout_id)
        return rollouts


class DequeueRequest(Request):
    """How much work to claim, and how long to wait for the first of it."""

    limit: int = Field(default=1, le=10_000)
    worker_id: Identifier | None = None
    wait_seconds: Seconds = 0.0
    """Bounded by the server; ask again for more."""
    lease_seconds: Lease | None = None
    metadata: dict[str, Any] | None = None
    """Claim only rollouts whose metadata holds all of these pairs."""


class StartRequest(Request):
    """A rollout to begin past the queue."""

    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: Fragment | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None
    worker_id: Identifier | None = None
    rollout_id: Identifier | None = None
    """An id made by the caller; a rollout that was started under it before is answered again."""
    lease_seconds: Lease | None = None


class RolloutUpdate(BaseModel):
    """Fields of a rollout to change; those that are absent stay."""

    input: TaskInput = None
    mode: RolloutMode | None = None
    resources_id: Fragment | None = None
    status: RolloutStatus | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None


class StartAttemptRequest(Request):
    """Who begins another attempt."""

    worker_id: Identifier | None = None
    attempt_id: Identifier | None = None
    """An id made by the caller; an attempt that the rollout has already is answered again."""
    lease_seconds: Lease | None = None


class AttemptUpdate(BaseModel):
    """Fields of an attempt to change; those that are absent stay."""

    status: AttemptStatus | None = None
    worker_id: Identifier | None = None
    last_heartbeat_time: Seconds | None = None
    """Unix seconds."""
    metadata: dict[str, Any] | None = None


class FinishRequest(BaseModel):
    """How an attempt succeeded; without an id it is the latest one."""

    attempt_id: Identifier | None = None
    reward: float | dict[str, float] | None = None
    output: Any = None


class FailRequest(BaseModel):
    """Why an attempt failed; without an id it is the latest one."""

    attempt_id: Identifier | None = None
    error: str | None = None


class WorkerUpdate(BaseModel):
    """A heartbeat."""

    heartbeat_stats: dict[str, Any] | None = None


class SequenceIdRequest(BaseModel):
    """The attempt that wants its next sequence id."""

    rollout_id: Identifier
    attempt_id: Identifier


class SequenceIdsRequest(BaseModel):
    """Pairs of rollout and attempt id; each gets one sequence id, in order."""

    pairs: list[tuple[Identifier, Identifier]] = Field(max_length=1_000_000)


class WaitRequest(BaseModel):
    """Rollouts to wait for."""

    rollout_ids: list[Fragment]
    timeout: Seconds | None = None
    """Seconds, bounded by the server; None waits as long as the server allows."""


def reject_nulls(body: BaseModel, *names: str) -> None:
    """Refuse explicit nulls in fields that can be left out but not cleared.

    Raises:
        InvalidRequestError: One of the fields was given as null.
    """
    for name in names:
        if name in body.model_fields_set and getattr(body, name) is None:
            raise InvalidRequestError(f"{name} cannot be null: leave it out to keep its value.")
