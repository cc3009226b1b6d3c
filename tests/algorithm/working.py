"""A runner at work beside a test, and a watcher of fits that remembers everything."""

import asyncio
import contextlib
import zlib
from typing import Any

import aiohttp

from agentlightning.execution.events import ThreadingEvent
from agentlightning.litagent import LitAgent
from agentlightning.progress.base import RunInfo, StepReport
from agentlightning.runner import LitAgentRunner
from agentlightning.store.base import LightningStore
from agentlightning.tracer.otel import OtelTracer


@contextlib.asynccontextmanager
async def working(store: LightningStore, agent: LitAgent[Any], **options: Any):
    """Serve the store's queue with `agent` during the block."""
    options = {"heartbeat_interval": 0.0, "concurrency": 16, **options}
    runner = LitAgentRunner[Any](OtelTracer(), **options)
    event = ThreadingEvent()
    with runner.run_context(agent=agent, store=store):
        task = asyncio.create_task(runner.iter(event=event))
        try:
            yield
        finally:
            event.set()
            await asyncio.wait_for(task, 20)


class Watcher:
    """A progress sink that keeps what it is told."""

    def __init__(self) -> None:
        self.info: RunInfo | None = None
        self.phases: list[tuple[str, int, int]] = []
        self.reports: list[StepReport] = []
        self.events: list[Any] = []
        self.warnings: list[str] = []

    def started(self, info: RunInfo) -> None:
        self.info = info
        self.events.append("started")

    def phase(self, phase: str, done: int = 0, total: int = 0) -> None:
        self.phases.append((phase, done, total))

    def stepped(self, report: StepReport) -> None:
        self.reports.append(report)
        self.events.append(("stepped", report.step))

    def evaluated(
        self, step: int, reward: float, tasks: int, seconds: float, *, metrics: Any = None
    ) -> None:
        assert seconds > 0
        assert 0 <= reward <= 1 or reward == -metrics["val/loss"]
        self.events.append(("evaluated", step, tasks))

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def ended(self, *, interrupted: bool, next_steps: list[str]) -> None:
        self.events.append(("ended", interrupted))
        self.next_steps = next_steps


class Scribe(LitAgent[Any]):
    """Asks the model once and grades the answer by all its letters: many are the same in text, as
    single bytes are no letters, and a group whose answers are graded alike teaches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.hold: asyncio.Event | None = None
        """While set to an event, rollouts wait for it in the middle of their call."""
        self.waiting = 0
        self.options: dict[str, Any] = {}
        """Further members of its request."""
        self.seeded = False
        """Ask with a seed of the rollout's own, so that its answer depends on nothing else."""
        self.grade = lambda answer: sum(map(ord, answer)) % 16 / 16

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        return self.grade(await self.ask(task, resources, rollout))

    async def ask(self, task: Any, resources: Any, rollout: Any) -> str:
        """Return what the model says to a task."""
        llm = resources["main_llm"]
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        body = {
            "model": llm.model,
            "messages": [{"role": "user", "content": task}],
            "max_tokens": 2,
            **self.options,
        }
        if self.seeded:
            body["seed"] = zlib.crc32(rollout.rollout_id.partition("-t")[2].encode())
        if self.hold is not None:
            self.waiting += 1
            await self.hold.wait()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/chat/completions", json=body) as response,
        ):
            response.raise_for_status()
            reply = await response.json()
        return reply["choices"][0]["message"]["content"]
