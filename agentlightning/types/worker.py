"""Workers: who executes rollouts, as the store sees them."""

from typing import Any, Literal

from pydantic import BaseModel

WorkerStatus = Literal["idle", "busy", "unknown"]


class Worker(BaseModel):
    """One runner as known from its claims and heartbeats; times are unix seconds."""

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: dict[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None
