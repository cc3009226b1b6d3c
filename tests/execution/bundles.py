"""Bundles at the top of a module, so that spawned processes can import them."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from agentlightning.litagent import LitAgent
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import EnqueueRolloutRequest


class Echo(LitAgent[Any]):
    """Returns its task as the reward."""

    async def rollout_async(self, task, resources, rollout):
        return float(task)


class DiesOnce(LitAgent[Any]):
    """Kills its own process in the first attempt of task 13."""

    def rollout(self, task, resources, rollout):
        if task == 13 and rollout.attempt.sequence_id == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(task)


class AlwaysDies(LitAgent[Any]):
    """Kills its own process in every attempt."""

    def rollout(self, task, resources, rollout):
        os.kill(os.getpid(), signal.SIGKILL)


class Sleeps(LitAgent[Any]):
    """Says where it runs, starts a process of its own, and takes long."""

    def __init__(self, folder: Path, *, stubborn: bool = False) -> None:
        super().__init__()
        self.folder, self.stubborn = folder, stubborn

    def rollout(self, task, resources, rollout):
        child = subprocess.Popen(["sleep", "120"])
        pids = [os.getppid(), os.getpid(), child.pid]
        note = self.folder / f"agent-{task}.tmp"
        note.write_text(json.dumps(pids))
        note.rename(self.folder / f"agent-{task}.json")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                time.sleep(0.05)
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise


async def run_agents(agent, store, worker_id, event, **options):
    """A runner bundle around a real runner; bind `agent` with a partial."""
    options = {"heartbeat_interval": 0.0, **options}
    runner = LitAgentRunner[Any](OtelTracer(), **options)
    with runner.run_context(agent=agent, store=store, worker_id=worker_id):
        await runner.iter(event=event)


async def crash_at_start(store, worker_id, event):
    """A runner bundle that never works."""
    raise RuntimeError("no licence for this runner")


async def leave(store, worker_id, event):
    """A runner bundle that has nothing to do."""


async def wait_for_event(store, worker_id, event):
    """A runner bundle that only waits."""
    await asyncio.to_thread(event.wait)


async def run_tasks(tasks, store, event):
    """An algorithm bundle: all tasks through the runners, each exactly once."""
    requests = [EnqueueRolloutRequest(input=task) for task in tasks]
    ids = [item.rollout_id for item in await store.enqueue_many_rollouts(requests)]
    done = await store.wait_for_rollouts(rollout_ids=ids, timeout=50)
    assert [item.status for item in done] == ["succeeded"] * len(ids)


async def wait_for_ever(store, event):
    """An algorithm bundle that never ends by itself."""
    await asyncio.sleep(600)


async def enqueue_and_wait(tasks, store, event):
    """An algorithm bundle that gives out work and never ends by itself."""
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=task) for task in tasks])
    await asyncio.sleep(600)


def block_for_ever(store, event):
    """Stands for an algorithm that never gives way to its event loop."""
    while True:
        time.sleep(0.05)


async def blocking(store, event):
    """An algorithm bundle around `block_for_ever`."""
    block_for_ever(store, event)


async def fail(store, event):
    """An algorithm bundle that breaks."""
    raise LookupError("the algorithm broke")


async def collect(store) -> dict[Any, list[Any]]:
    """For each task: status, attempts' outcomes, workers and rewards."""
    found = {}
    for item in await store.query_rollouts():
        attempts = await store.query_attempts(item.rollout_id)
        spans = await store.query_spans(item.rollout_id, "latest")
        found[item.input] = [
            item.status,
            [(a.metadata or {}).get("outcome") for a in attempts],
            [a.worker_id for a in attempts],
            [s.attributes.get("agentlightning.reward.0.value") for s in spans],
        ]
    return found
