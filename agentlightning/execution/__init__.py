"""Execution strategies: where the algorithm and the runners live. Classes load on first use."""

from typing import TYPE_CHECKING

from agentlightning._internal.lazy import lazy_exports

if TYPE_CHECKING:
    from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
    from agentlightning.execution.client_server import ClientServerExecutionStrategy
    from agentlightning.execution.events import MultiprocessingEvent, ThreadingEvent
    from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy
    from agentlightning.types.event import ExecutionEvent

__all__ = [
    "AlgorithmBundle",
    "ClientServerExecutionStrategy",
    "ExecutionEvent",
    "ExecutionStrategy",
    "MultiprocessingEvent",
    "RunnerBundle",
    "SharedMemoryExecutionStrategy",
    "ThreadingEvent",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AlgorithmBundle": "agentlightning.execution.base",
        "ExecutionStrategy": "agentlightning.execution.base",
        "RunnerBundle": "agentlightning.execution.base",
        "ClientServerExecutionStrategy": "agentlightning.execution.client_server",
        "ExecutionEvent": "agentlightning.types.event",
        "MultiprocessingEvent": "agentlightning.execution.events",
        "ThreadingEvent": "agentlightning.execution.events",
        "SharedMemoryExecutionStrategy": "agentlightning.execution.shared_memory",
    },
)
