"""The v0.1 task server: agents poll it for tasks and post results to it.

Deprecated: new programs use a `LightningStore` and its server. It keeps everything in memory.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from agentlightning._internal.clock import monotonic, now
from agentlightning.types import (
    GenericResponse,
    NamedResources,
    ResourcesUpdate,
    RolloutLegacy,
    RolloutMode,
    Task,
    TaskIfAny,
)
from agentlightning.utils.server_launcher import PythonServerLauncher, PythonServerLauncherArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["AgentLightningServer"]

logger = logging.getLogger(__name__)

_RESULT_POLL_SECONDS = 0.05


class AgentLightningServer:
    """Queues tasks, hands them to polling agents, and collects what they post.

    A task whose agent does not answer in time is handed out again, so its result may come twice;
    the last one counts. Methods may be called from any thread or event loop.

    Args:
        host: Address to bind.
        port: Port to bind; 0 lets the system choose, and `endpoint` tells after `start`.
        task_timeout_seconds: How long an agent may take before its task is handed out again.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 8000, task_timeout_seconds: float = 300.0
    ) -> None:
        self.host = host
        self.port = port
        self.endpoint = f"http://{host}:{port}"
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that serves; None before `start`."""
        self.startup_event = threading.Event()
        """Set while the server answers."""
        self._board = _TaskBoard(task_timeout_seconds)
        self._launcher: PythonServerLauncher | None = None

    async def start(self) -> None:
        """Serve in this event loop, and return once requests are answered.

        Raises:
            RuntimeError: It runs already, or the application did not start.
            ConfigurationError: The address cannot be bound.
        """
        if self._launcher is None:
            arguments = PythonServerLauncherArgs(host=self.host, port=self.port)
            self._launcher = PythonServerLauncher(_make_app(self._board), arguments)
        await self._launcher.start()
        self.loop = asyncio.get_running_loop()
        self.port = self._launcher.port
        self.endpoint = self._launcher.endpoint
        self.startup_event.set()

    async def stop(self) -> None:
        """Stop serving; tasks and results stay. Does nothing when it does not run."""
        self.startup_event.clear()
        if self._launcher is not None:
            await self._launcher.stop()
            self._launcher = None

    async def run_forever(self) -> None:
        """Serve until cancelled or told to end by SIGINT or SIGTERM."""
        await self.start()
        assert self._launcher is not None
        try:
            await self._launcher.run_forever()
        finally:
            await self.stop()

    async def queue_task(
        self,
        sample: Any,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Queue a task and return its rollout id; without `resources_id` it uses the latest."""
        task = Task(
            rollout_id=f"rollout-{uuid.uuid4()}",
            input=sample,
            mode=mode,
            resources_id=resources_id,
            create_time=now(),
            num_claims=0,
            metadata=metadata or {},
        )
        self._board.add(task)
        return task.rollout_id

    async def update_resources(self, resources: NamedResources) -> str:
        """Publish resources as the latest and return their id."""
        made = now()
        update = ResourcesUpdate(
            resources_id=f"res-{uuid.uuid4()}",
            create_time=made,
            update_time=made,
            version=1,
            resources=resources,
        )
        self._board.publish(update)
        return update.resources_id

    async def get_completed_rollout(self, rollout_id: str) -> RolloutLegacy | None:
        """Take one result out; None if it has not arrived."""
        return self._board.take_result(rollout_id)

    async def poll_completed_rollout(
        self, rollout_id: str, timeout: float | None = None
    ) -> RolloutLegacy | None:
        """Wait for one result and take it out; None after `timeout` seconds."""
        deadline = None if timeout is None else monotonic() + timeout
        while (rollout := self._board.take_result(rollout_id)) is None:
            if deadline is not None and monotonic() >= deadline:
                return None
            await asyncio.sleep(_RESULT_POLL_SECONDS)
        return rollout

    async def retrieve_completed_rollouts(self) -> list[RolloutLegacy]:
        """Take all results out, in order of arrival."""
        return self._board.take_results()


class _TaskBoard:
    """Tasks by state, results and resources; every method is atomic."""

    def __init__(self, task_timeout_seconds: float) -> None:
        self._timeout = task_timeout_seconds
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._claimed: dict[str, Task] = {}
        self._results: dict[str, RolloutLegacy] = {}
        self._resources: dict[str, ResourcesUpdate] = {}
        self._latest: ResourcesUpdate | None = None

    def add(self, task: Task) -> None:
        with self._lock:
            self._waiting.append(task)

    def claim(self) -> Task | None:
        """Hand out the oldest task; those whose agent timed out queue up again first."""
        with self._lock:
            time = now()
            for task in list(self._claimed.values()):
                if time - (task.last_claim_time or time) > self._timeout:
                    logger.warning("task timed out", extra={"rollout_id": task.rollout_id})
                    self._waiting.append(self._claimed.pop(task.rollout_id))
            if not self._waiting:
                return None
            task = self._waiting.popleft()
            claims = (task.num_claims or 0) + 1
            task = task.model_copy(update={"last_claim_time": time, "num_claims": claims})
            self._claimed[task.rollout_id] = task
            return task

    def settle(self, rollout: RolloutLegacy) -> None:
        with self._lock:
            self._claimed.pop(rollout.rollout_id, None)
            self._waiting = deque(t for t in self._waiting if t.rollout_id != rollout.rollout_id)
            self._results[rollout.rollout_id] = rollout

    def take_result(self, rollout_id: str) -> RolloutLegacy | None:
        with self._lock:
            return self._results.pop(rollout_id, None)

    def take_results(self) -> list[RolloutLegacy]:
        with self._lock:
            results = list(self._results.values())
            self._results.clear()
            return results

    def publish(self, update: ResourcesUpdate) -> None:
        with self._lock:
            self._resources[update.resources_id] = self._latest = update

    def resources(self, resources_id: str) -> ResourcesUpdate | None:
        """Return resources by id, where `latest` is what was published last."""
        with self._lock:
            return self._latest if resources_id == "latest" else self._resources.get(resources_id)


def _make_app(board: _TaskBoard) -> FastAPI:
    from fastapi import FastAPI, HTTPException

    app = FastAPI(title="Agent Lightning task server (v0.1)")

    async def next_task() -> TaskIfAny:
        task = board.claim()
        return TaskIfAny(is_available=task is not None, task=task)

    async def resources(resources_id: str) -> ResourcesUpdate:
        update = board.resources(resources_id)
        if update is None:
            raise HTTPException(404, f"Resources {resources_id!r} are not on this server.")
        return update

    async def rollout(rollout: RolloutLegacy) -> GenericResponse:
        board.settle(rollout)
        return GenericResponse(status="ok", message=f"Rollout {rollout.rollout_id} received.")

    app.add_api_route("/task", next_task, methods=["GET"])
    app.add_api_route("/resources/{resources_id}", resources, methods=["GET"])
    app.add_api_route("/rollout", rollout, methods=["POST"])
    return app
