"""Real runners in processes of their own, which tests kill and freeze."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import urllib.request
from multiprocessing.context import SpawnProcess

import aiohttp

import agentlightning as agl
from agentlightning.runner.agent import LitAgentRunner
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.tracer.otel import OtelTracer
from agentlightning.types import AttemptedRollout
from tests.chaos.workload import CALLS, SPANS, ask

LEASE_SECONDS = 4.0
BEAT_SECONDS = 1.0


def question(task: dict, rollout: AttemptedRollout, turn: int) -> str:
    return f"{task['marker']} {rollout.attempt.attempt_id} turn {turn}"


def leave_spans(task: dict, turn: int) -> None:
    for step in range(turn, SPANS, CALLS):
        agl.emit_message("step", attributes={"marker": task["marker"], "step": step})


@agl.rollout
async def task_agent(task: dict, llm: agl.LLM, rollout: AttemptedRollout) -> None:
    """Leave five spans and make two model calls, each with the rollout's marker."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        for turn in range(CALLS):
            text = question(task, rollout, turn)
            assert await ask(http, llm.endpoint, text) == f"re: {text}"
            leave_spans(task, turn)


@agl.rollout
def thread_agent(task: dict, llm: agl.LLM, rollout: AttemptedRollout) -> None:
    """Do the same in a thread that each call blocks."""
    for turn in range(CALLS):
        text = question(task, rollout, turn)
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(
            f"{llm.endpoint}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = json.load(reply)
        assert answer["choices"][0]["message"]["content"] == f"re: {text}"
        leave_spans(task, turn)


AGENTS = (task_agent, thread_agent)


def work(address: str, number: int, concurrency: int) -> None:
    """Claim and execute rollouts until killed; every other runner has its agents in threads."""

    async def run() -> None:
        runner = LitAgentRunner(
            OtelTracer(),
            heartbeat_interval=BEAT_SECONDS,
            interval_jitter=0.1,
            concurrency=concurrency,
            lease_seconds=LEASE_SECONDS,
        )
        runner.init(AGENTS[number % len(AGENTS)])
        runner.init_worker(number, LightningStoreClient(address))
        await runner.iter()

    asyncio.run(run())


class Fleet:
    """Several runner processes; each that is killed is replaced by a new one of its kind."""

    def __init__(self, address: str, size: int, concurrency: int, seed: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._address = address
        self._concurrency = concurrency
        self._random = random.Random(seed)
        self._started = 0
        self._running: dict[int, SpawnProcess] = {}
        self._frozen: dict[int, SpawnProcess] = {}
        for number in range(size):
            self._add(number)

    def _add(self, kind: int) -> None:
        number = self._started + (self._started + kind) % len(AGENTS)
        self._started = number + 1
        process = self._context.Process(
            target=work, args=(self._address, number, self._concurrency), daemon=True
        )
        self._running[number] = process
        process.start()

    def kill_one(self) -> None:
        number = self._random.choice(list(self._running))
        victim = self._running.pop(number)
        _end(victim)
        self._add(number)

    def numbers(self, kind: int) -> list[int]:
        """Return the numbers of the runners that have this kind of agents and are not frozen."""
        return [number for number in self._running if number % len(AGENTS) == kind]

    def freeze(self, number: int) -> None:
        """Stop a runner in the middle of whatever it does, like a machine that falls asleep."""
        self._frozen[number] = self._running.pop(number)
        os.kill(self._frozen[number].pid or 0, signal.SIGSTOP)
        return number

    def thaw(self, number: int) -> None:
        self._running[number] = self._frozen.pop(number)
        os.kill(self._running[number].pid or 0, signal.SIGCONT)

    def close(self) -> None:
        for process in (*self._running.values(), *self._frozen.values()):
            _end(process)
        self._running.clear()
        self._frozen.clear()


def _end(process: SpawnProcess) -> None:
    process.kill()
    process.join()
    process.close()
