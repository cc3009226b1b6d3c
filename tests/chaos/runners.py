"""Real runners in processes of their own, which tests kill."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from multiprocessing.context import SpawnProcess

import aiohttp

import agentlightning as agl
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import AttemptedRollout
from tests.chaos.workload import CALLS, SPANS, ask


@agl.rollout
async def agent(task: dict, llm: agl.LLM, rollout: AttemptedRollout) -> None:
    """Leave five spans and make two model calls, each with the rollout's marker."""
    marker = task["marker"]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        for turn in range(CALLS):
            text = f"{marker} {rollout.attempt.attempt_id} turn {turn}"
            assert await ask(http, llm.endpoint, text) == f"re: {text}"
            for step in range(turn, SPANS, CALLS):
                agl.emit_message("step", attributes={"marker": marker, "step": step})


def work(address: str, number: int, concurrency: int) -> None:
    """Claim and execute rollouts until killed."""

    async def run() -> None:
        runner = LitAgentRunner(OtelTracer(), concurrency=concurrency)
        runner.init(agent)
        runner.init_worker(number, LightningStoreClient(address))
        await runner.iter()

    asyncio.run(run())


class Fleet:
    """Several runner processes; each that is killed is replaced by a new one."""

    def __init__(self, address: str, size: int, concurrency: int, seed: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._address = address
        self._concurrency = concurrency
        self._random = random.Random(seed)
        self._started = 0
        self._processes: list[SpawnProcess] = []
        for _ in range(size):
            self._add()

    def _add(self) -> None:
        process = self._context.Process(
            target=work, args=(self._address, self._started, self._concurrency), daemon=True
        )
        self._started += 1
        self._processes.append(process)
        process.start()

    def kill_one(self) -> None:
        victim = self._random.choice(self._processes)
        self._processes.remove(victim)
        victim.kill()
        victim.join()
        victim.close()
        self._add()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        self._processes.clear()
