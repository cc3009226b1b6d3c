"""Training runs that are killed at a random point and resumed, and what must hold of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from agentlightning._internal.clock import monotonic
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types import Rollout
from tests.chaos.processes import StoreProcess
from tests.chaos.training_run import ALL_SIGNS, GROUPS, HELD_OUT, MEMBERS, SIGNS, STEPS, fit

Victim = Literal["algorithm", "runner", "store"]
VICTIMS: tuple[Victim, ...] = ("algorithm", "runner", "store")
SCHEDULES: tuple[dict[str, Any], ...] = (
    {},
    {"max_staleness": 1, "swap": "keep"},
    {"oversample": 1.5, "zero_signal": "refill"},
)
LEARNT = 0.6
"""End reward that every run reaches; it is 0.5 without learning."""
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Kill:
    """When who is killed."""

    number: int
    victim: Victim
    sign: int
    """How many beginnings and ends of rollouts come before it."""
    delay: float
    """Seconds after that."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def label(self) -> str:
        """Return a short name."""
        return f"{self.number}-{self.victim}-at-{self.sign}"


def kills(count: int = 20, seed: int = 20) -> list[Kill]:
    """Return the points of the matrix; the same for the same seed."""
    rng = random.Random(seed)
    return [
        Kill(
            number,
            VICTIMS[number % len(VICTIMS)],
            rng.randrange(1, ALL_SIGNS),
            rng.uniform(0.0, 0.15),
            SCHEDULES[number // len(VICTIMS) % len(SCHEDULES)],
        )
        for number in range(count)
    ]


@contextlib.contextmanager
def ready_processes() -> Generator[multiprocessing.context.ForkServerContext]:
    """Yield a context whose processes have the libraries loaded when they start."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.training_run"])
    try:
        yield context
    finally:
        forkserver._forkserver._stop()


class MatrixRun:
    """One run of the matrix: fits, one after the other, until the last step is done."""

    def __init__(
        self, context: multiprocessing.context.ForkServerContext, folder: Path, model: Path
    ) -> None:
        self._context, self._folder, self._model = context, folder, model
        self._store: StoreProcess | None = None
        self.parts = 0
        """Processes that it took."""
        self.seconds_to_resume = 0.0
        """From the restart to the first sign of a rollout, or to the end."""
        folder.mkdir(parents=True)
        (folder / SIGNS).touch()

    async def run(self, settings: dict[str, Any], kill: Kill | None = None) -> None:
        """Run to the end; `kill` strikes once."""
        if kill is not None and kill.victim == "store":
            self._store = StoreProcess(f"sqlite:///{self._folder / 'store.db'}", self._folder)
            self._store.start()
            await self._store.wait_ready()
        process = self._start(settings)
        try:
            if kill is not None and self._wait_for_sign(process, kill.sign):
                time.sleep(kill.delay)
                await self._strike(process, kill)
            process.join(_PATIENCE_SECONDS)
            while process.exitcode != 0:
                assert self.parts < 4, f"it ended with {process.exitcode} again and again"
                process.kill()
                process.join()
                before, began = self._signs(), monotonic()
                process = self._start(settings)
                self._wait_for_sign(process, len(before) + 1)
                self.seconds_to_resume = monotonic() - began
                process.join(_PATIENCE_SECONDS)
        finally:
            process.kill()
            process.join()
            if self._store is not None:
                self._store.kill()

    def _start(self, settings: dict[str, Any]) -> BaseProcess:
        self.parts += 1
        address = self._store.address if self._store is not None else None
        process = self._context.Process(
            target=fit, args=(self._folder, self._model, address, settings)
        )
        process.start()
        return process

    def _signs(self) -> list[int]:
        return [int(line) for line in (self._folder / SIGNS).read_text().split("\n")[:-1]]

    def _wait_for_sign(self, process: BaseProcess, number: int) -> bool:
        """Wait for so many signs; return whether the run was still going."""
        deadline = monotonic() + _PATIENCE_SECONDS
        while len(self._signs()) < number:
            if not process.is_alive():
                return False
            assert monotonic() < deadline, "the run stands still"
            time.sleep(0.005)
        return True

    async def _strike(self, process: BaseProcess, kill: Kill) -> None:
        if kill.victim == "algorithm":
            process.kill()
        elif kill.victim == "runner":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._signs()[-1], signal.SIGKILL)
        else:
            assert self._store is not None
            self._store.kill()
            self._store.start()
            await self._store.wait_ready()

    async def audit(self) -> float:
        """Check what holds of every resumed run, and return its last reward.

        Every step was trained once, on whole groups, and no rollout that had ended was run anew.
        """
        result = FitResult.load(self._folder / "run")
        assert (result.steps, result.interrupted, result.reason) == (STEPS, False, None)
        lines = result.metrics()
        steps = [line["step"] for line in lines if "training/reward" in line]
        assert steps == list(range(1, STEPS + 1))
        assert all(
            line["training/n_rollouts"] >= GROUPS * MEMBERS
            for line in lines
            if "training/reward" in line
        )
        rollouts = await self._rollouts()
        ended: dict[str, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            assert rollout.status in {"succeeded", "cancelled"}, rollout
            if rollout.status == "succeeded":
                # The place in the run, without the part of the run that made it.
                ended[rollout.rollout_id.split("-", 3)[3]].append(rollout)
        assert all(len(same) == 1 for same in ended.values())
        trained = [place for place in ended if place.startswith("t")]
        assert {place.split("-")[0] for place in trained} == {f"t{s}" for s in range(STEPS)}
        assert len(ended) - len(trained) == 2 * HELD_OUT
        assert [each.step for each in result.evaluations] == [0, STEPS]
        return result.evaluations[-1].reward

    async def _rollouts(self) -> list[Rollout]:
        own = self._folder / ("run/store.db" if self._store is None else "store.db")
        store = SQLiteLightningStore(own)
        try:
            return list(await store.query_rollouts())
        finally:
            await store.close()
