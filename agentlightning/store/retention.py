"""What may be removed from a store, and when: policies and reports, no doing."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentlightning.types import Rollout

__all__ = [
    "READ_KEY",
    "SPANS_REMOVED_KEY",
    "RetentionPolicy",
    "RetentionReport",
    "is_read",
]

READ_KEY: Final = "agentlightning.read_time"
"""Rollout metadata: unix seconds at which the algorithm said that it has read all it needs."""

SPANS_REMOVED_KEY: Final = "agentlightning.spans_removed_time"
"""Rollout metadata: unix seconds at which a policy removed the rollout's spans."""


class RetentionPolicy(BaseModel):
    """How much to keep of what has ended and was read.

    A rollout goes when it is beyond any of the limits that are given. Ended rollouts are in order
    of their end; those that were not read count, but never go.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Keep what ended less than so long ago."""
    keep_rollouts: int | None = Field(default=None, ge=0)
    """Keep the newest so many."""
    keep_bytes: int | None = Field(default=None, ge=0)
    """Keep the newest whose spans take so many bytes together, as the backend keeps them; what
    several rollouts share counts for each of them."""
    what: Literal["spans", "rollouts"] = "spans"
    """Remove spans only, or all of a rollout."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Only rollouts whose metadata holds all of these pairs, such as `run_id`."""

    @model_validator(mode="after")
    def _limited(self) -> "RetentionPolicy":
        if self.keep_seconds is None and self.keep_rollouts is None and self.keep_bytes is None:
            raise ValueError("A policy needs keep_seconds, keep_rollouts or keep_bytes.")
        return self


class RetentionReport(BaseModel):
    """What a policy removed, or would remove."""

    rollouts: int = 0
    """Rollouts whose spans, or all of which, went."""
    spans: int = 0
    """Spans that went; 0 in a dry run."""
    bytes: int | None = None
    """What the spans took, about; None unless the policy limits bytes."""
    unread: int = 0
    """Rollouts beyond the limits that stayed, because nobody has marked them read."""
    rollout_ids: list[str] = Field(default_factory=list)
    """The first thousand that went, oldest first."""
    dry_run: bool = False


def is_read(rollout: Rollout) -> bool:
    """Return whether a rollout has ended and was marked read since."""
    read = (rollout.metadata or {}).get(READ_KEY)
    ended = rollout.end_time
    return isinstance(read, int | float) and ended is not None and read >= ended
