"""The v0.1 agent client: it asks a task server for work and posts results back.

Deprecated: new programs use `LightningStoreClient` and runners. Nothing of ours builds on this.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from agentlightning._internal.clock import now
from agentlightning.errors import ConfigurationError, NotFoundError
from agentlightning.types import (
    NamedResources,
    ResourcesUpdate,
    RolloutLegacy,
    Task,
    TaskIfAny,
)

__all__ = ["AgentLightningClient", "DevTaskLoader"]

logger = logging.getLogger(__name__)

_LOCAL_RESOURCES_ID = "local"


class AgentLightningClient:
    """Talks to an `AgentLightningServer`; a server that cannot be reached is logged, not raised.

    It connects directly: proxies of the environment are not used.

    Args:
        endpoint: Root URL of the server.
        poll_interval: Seconds between two questions for a task.
        timeout: Seconds that one request may take.
    """

    def __init__(self, endpoint: str, poll_interval: float = 5.0, timeout: float = 10.0) -> None:
        self.endpoint = endpoint
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.task_count = 0
        """Tasks received so far."""
        self._resources: dict[str, ResourcesUpdate] = {}

    def poll_next_task(self) -> Task | None:
        """Wait until the server has a task, and return it."""
        while (task := self._ask_for_task()) is None:
            time.sleep(self.poll_interval)
        return task

    async def poll_next_task_async(self) -> Task | None:
        """Wait until the server has a task, and return it."""
        while True:
            task = await asyncio.to_thread(self._ask_for_task)
            if task is not None:
                return task
            await asyncio.sleep(self.poll_interval)

    def get_resources_by_id(self, resource_id: str) -> ResourcesUpdate | None:
        """Return one set of resources, remembered once fetched; None if the server has it not."""
        if resource_id not in self._resources:
            reply = self._request("GET", f"/resources/{quote(resource_id, safe='')}")
            if reply is None:
                return None
            self._resources[resource_id] = ResourcesUpdate.model_validate(reply)
        return self._resources[resource_id]

    async def get_resources_by_id_async(self, resource_id: str) -> ResourcesUpdate | None:
        """Return one set of resources, remembered once fetched; None if the server has it not."""
        return await asyncio.to_thread(self.get_resources_by_id, resource_id)

    def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the resources set last, or None if there are none."""
        reply = self._request("GET", "/resources/latest")
        if reply is None:
            return None
        update = ResourcesUpdate.model_validate(reply)
        self._resources[update.resources_id] = update
        return update

    async def get_latest_resources_async(self) -> ResourcesUpdate | None:
        """Return the resources set last, or None if there are none."""
        return await asyncio.to_thread(self.get_latest_resources)

    def post_rollout(self, rollout: RolloutLegacy) -> dict[str, Any] | None:
        """Send a result; return the server's acknowledgement, or None if it did not arrive."""
        return self._request("POST", "/rollout", rollout.model_dump_json().encode())

    async def post_rollout_async(self, rollout: RolloutLegacy) -> dict[str, Any] | None:
        """Send a result; return the server's acknowledgement, or None if it did not arrive."""
        return await asyncio.to_thread(self.post_rollout, rollout)

    def _ask_for_task(self) -> Task | None:
        reply = self._request("GET", "/task")
        if reply is None:
            return None
        task = TaskIfAny.model_validate(reply).task
        if task is not None:
            self.task_count += 1
        return task

    def _request(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any] | None:
        request = urllib.request.Request(
            self.endpoint.rstrip("/") + path,
            data=body,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.timeout) as reply:
                return cast("dict[str, Any]", json.load(reply))
        except (OSError, json.JSONDecodeError) as error:
            logger.warning(
                "task server request failed",
                extra={"method": method, "url": request.full_url, "error": str(error)},
            )
            return None


class DevTaskLoader(AgentLightningClient):
    """Serves tasks and resources from memory, in a circle, to try an agent without a server.

    Args:
        tasks: Inputs, or whole `Task` objects.
        resources: What every task gets.
        **kwargs: Accepted and ignored, as a client's arguments may be passed along.

    Raises:
        ConfigurationError: There are no tasks.
    """

    def __init__(
        self,
        tasks: Sequence[Any],
        resources: NamedResources | ResourcesUpdate,
        **kwargs: Any,
    ) -> None:
        super().__init__("local://", **{"poll_interval": 0.0, **kwargs})
        if not tasks:
            raise ConfigurationError("DevTaskLoader needs at least one task.")
        self._inputs = itertools.cycle(tasks)
        self._update = (
            resources if isinstance(resources, ResourcesUpdate) else _local_resources(resources)
        )
        self._rollouts: list[RolloutLegacy] = []

    @property
    def rollouts(self) -> list[RolloutLegacy]:
        """Results posted so far, in order."""
        return self._rollouts

    def poll_next_task(self) -> Task:
        """Return the next task of the circle."""
        self.task_count += 1
        item = next(self._inputs)
        if isinstance(item, Task):
            return item
        return Task(
            rollout_id=f"local_task_{self.task_count:03d}",
            input=item,
            resources_id=self._update.resources_id,
            create_time=now(),
        )

    async def poll_next_task_async(self) -> Task:
        """Return the next task of the circle."""
        return self.poll_next_task()

    def get_resources_by_id(self, resource_id: str) -> ResourcesUpdate:
        """Return the resources.

        Raises:
            NotFoundError: `resource_id` is not theirs.
        """
        if resource_id != self._update.resources_id:
            raise NotFoundError(
                f"Resources {resource_id!r} are unknown: this loader has only "
                f"{self._update.resources_id!r}."
            )
        return self._update

    def get_latest_resources(self) -> ResourcesUpdate:
        """Return the resources."""
        return self._update

    def post_rollout(self, rollout: RolloutLegacy) -> dict[str, Any]:
        """Keep a result in `rollouts`."""
        self._rollouts.append(rollout)
        return {"status": "received", "rollout_id": rollout.rollout_id}


def _local_resources(resources: NamedResources) -> ResourcesUpdate:
    made = now()
    return ResourcesUpdate(
        resources_id=_LOCAL_RESOURCES_ID,
        create_time=made,
        update_time=made,
        version=1,
        resources=resources,
    )
