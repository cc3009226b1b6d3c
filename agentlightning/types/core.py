"""The names that 0.3.0 kept in one module; each now lives in a module of its own subject."""

from agentlightning.types.event import ExecutionEvent, StoreEvent
from agentlightning.types.hook import Dataset, Hook, ParallelWorkerBase
from agentlightning.types.legacy import (
    GenericResponse,
    RolloutLegacy,
    RolloutRawResultLegacy,
    Task,
    TaskIfAny,
)
from agentlightning.types.query import (
    FilterField,
    FilterOptions,
    PaginatedResult,
    SortOptions,
)
from agentlightning.types.rollout import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    TaskInput,
    Triplet,
)
from agentlightning.types.tracer import RolloutRawResult
from agentlightning.types.worker import Worker, WorkerStatus

__all__ = [
    "Attempt",
    "AttemptStatus",
    "AttemptedRollout",
    "Dataset",
    "EnqueueRolloutRequest",
    "ExecutionEvent",
    "FilterField",
    "FilterOptions",
    "GenericResponse",
    "Hook",
    "PaginatedResult",
    "ParallelWorkerBase",
    "Rollout",
    "RolloutConfig",
    "RolloutLegacy",
    "RolloutMode",
    "RolloutRawResult",
    "RolloutRawResultLegacy",
    "RolloutStatus",
    "SortOptions",
    "StoreEvent",
    "Task",
    "TaskIfAny",
    "TaskInput",
    "Triplet",
    "Worker",
    "WorkerStatus",
]
