"""Events: what the store tells its subscribers, and the stop signal of an execution."""

from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

StoreEventKind = Literal[
    "rollout_created",
    "rollout_updated",
    "rollout_removed",
    "attempt_started",
    "attempt_updated",
    "spans_added",
    "resources_updated",
    "worker_updated",
]


class StoreEvent(BaseModel):
    """One change of the store.

    An event says what changed, not what it changed to in full: read the record for that. Events
    are ordered by `seq`, which grows by at least one and never repeats within one store.
    """

    seq: int
    kind: StoreEventKind
    time: float
    """Unix seconds."""
    rollout_id: str | None = None
    attempt_id: str | None = None
    resources_id: str | None = None
    worker_id: str | None = None
    status: str | None = None
    """New status of the rollout, attempt or worker, when the event is about one."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Small extras: `mode` and `metadata` of a rollout, `count` of added spans."""


class ExecutionEvent(Protocol):
    """A flag shared by algorithm and runners; setting it asks everybody to stop."""

    def set(self) -> None:
        """Raise the flag."""
        ...

    def clear(self) -> None:
        """Lower the flag."""
        ...

    def is_set(self) -> bool:
        """Return whether the flag is up."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is up or `timeout` seconds passed; return whether it is up."""
        ...
