"""The supervisor process: it starts workers, starts them again when they die, and ends them.

It is a process of its own, forked before the main process has threads, so that it can fork new
workers safely at any time, and so that it can clean up after a main process that was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Literal

from agentlightning._internal.clock import monotonic, now
from agentlightning.execution.base import RunnerBundle
from agentlightning.execution.events import MultiprocessingEvent
from agentlightning.execution.processes import (
    adopt_process,
    choose_context,
    kill_group,
    start_process,
)
from agentlightning.execution.restart import CrashCount, RestartPolicy
from agentlightning.execution.worker import WorkerTask, run_worker

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["FleetPlan", "supervise"]

logger = logging.getLogger(__name__)

Escalation = Literal["wait", "interrupt", "terminate", "kill"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """What the supervisor is to do; pickles where the bundle does."""

    bundle: RunnerBundle
    n_workers: int
    event: MultiprocessingEvent
    start_method: str
    parent_pid: int
    graceful_seconds: float
    """How long workers may go on after the stop signal before they are interrupted."""
    terminate_seconds: float
    """How long each harder way of ending them may take."""
    allowed_exit_codes: tuple[int, ...]
    restart: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(slots=True)
class _Seat:
    """The place of one worker, whoever sits in it."""

    number: int
    crashes: CrashCount
    process: Any = None
    report: Connection | None = None
    started: float = 0.0
    restart_at: float | None = None
    lives: int = 0
    final_code: int | None = None
    """How it ended after the fleet was told to stop."""

    @property
    def is_alive(self) -> bool:
        return self.process is not None


def supervise(plan: FleetPlan, control: Connection, other_end: Connection | None) -> None:
    """Run the fleet until told to stop; the target of the supervisor process.

    Messages in: `("launch", store, close_store)`, `("stop",)`. Out: `("finished",)` when every
    worker has ended by itself, `("failed", text)` when one died too often or ended wrongly, and
    `("done",)` at the end. When the control pipe breaks, the main process is dead, and every
    worker is killed.

    Args:
        plan: What to do.
        control: Our end of the pipe.
        other_end: The main process's end, if a fork copied it: while we hold it, the pipe could
            not break.
    """
    if other_end is not None:
        other_end.close()
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_process(plan.parent_pid)
    supervisor = _Supervisor(plan, control)
    try:
        supervisor.run()
    except (EOFError, BrokenPipeError):
        logger.debug("the main process is gone; workers are killed")
    finally:
        # A second signal must not cut the cleaning short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        supervisor.kill_all()


def _exit(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


class _Supervisor:
    def __init__(self, plan: FleetPlan, control: Connection) -> None:
        self._plan = plan
        self._control = control
        self._context: BaseContext = choose_context(plan.start_method)
        self._seats = [_Seat(number, CrashCount(plan.restart)) for number in range(plan.n_workers)]
        self._store: LightningStore | None = None
        self._close_store = False
        self._since = now()
        self._stopping = False

    def run(self) -> None:
        if self._plan.start_method == "fork":
            # Perf: forked workers find it imported, which saves each of them 0.4 s.
            importlib.import_module("agentlightning.store.http.client")
        while not self._stopping:
            self._wait(self._next_restart())
            self._restart_due()
        self._plan.event.set()
        self._end_workers()
        self._control.send(("done",))

    def kill_all(self) -> None:
        for seat in self._seats:
            if seat.process is not None:
                kill_group(seat.process.pid)
                seat.process.join()

    def _wait(self, timeout: float | None) -> None:
        """Handle what happens first: a message, the death of a worker, or the timeout."""
        alive = {seat.process.sentinel: seat for seat in self._seats if seat.is_alive}
        for ready in connection.wait([self._control, *alive], timeout):
            if ready is self._control:
                self._obey(self._control.recv())
            else:
                self._bury(alive[ready])

    def _obey(self, message: tuple[Any, ...]) -> None:
        if message[0] == "launch":
            self._store, self._close_store = message[1], message[2]
            for seat in self._seats:
                self._start(seat)
        else:
            self._stopping = True

    def _start(self, seat: _Seat) -> None:
        reader, writer = self._context.Pipe(duplex=False)
        assert self._store is not None, "launched before"
        task = WorkerTask(
            bundle=self._plan.bundle,
            store=self._store,
            close_store=self._close_store,
            worker_id=seat.number,
            event=self._plan.event,
            parent_pid=os.getpid(),
            release_since=self._since if seat.lives else None,
        )
        process = start_process(
            self._context, run_worker, (task, writer), f"agl-runner-{seat.number}"
        )
        writer.close()
        seat.process, seat.report, seat.restart_at = process, reader, None
        seat.started, seat.lives = monotonic(), seat.lives + 1

    def _bury(self, seat: _Seat) -> None:
        process, report = seat.process, seat.report
        # What the agents of this worker started would otherwise live on.
        kill_group(process.pid)
        process.join()
        code = process.exitcode
        process.close()
        seat.process = seat.report = None
        error = _last_words(report)
        if self._stopping:
            seat.final_code = code
        elif code != 0:
            self._answer_crash(seat, code, error)
        elif not any(other.is_alive or other.restart_at for other in self._seats):
            self._control.send(("finished",))

    def _answer_crash(self, seat: _Seat, code: int, error: str | None) -> None:
        delay = seat.crashes.crashed(monotonic() - seat.started)
        if delay is not None:
            logger.warning(
                "worker died; it is started again",
                extra={"worker_number": seat.number, "exit_code": code, "delay_seconds": delay},
            )
            seat.restart_at = monotonic() + delay
            return
        self._stopping = True
        text = (
            f"Worker {seat.number} died {seat.crashes.crashes} times in a row; the last exit code "
            f"is {code}. {error or 'It left no error message; see its output.'}"
        )
        self._control.send(("failed", text))

    def _next_restart(self) -> float | None:
        times = [seat.restart_at for seat in self._seats if seat.restart_at is not None]
        return max(0.0, min(times) - monotonic()) if times else None

    def _restart_due(self) -> None:
        for seat in self._seats:
            due = seat.restart_at is not None and seat.restart_at <= monotonic()
            if due and not self._stopping:
                self._start(seat)

    def _end_workers(self) -> None:
        """Wait for the workers, with more force at each step, and report wrong exits."""
        plan = self._plan
        steps: list[tuple[Escalation, float]] = [
            ("wait", plan.graceful_seconds),
            ("interrupt", plan.terminate_seconds),
            ("terminate", plan.terminate_seconds),
            ("kill", plan.terminate_seconds),
        ]
        forced: set[int] = set()
        for step, seconds in steps:
            for seat in self._seats:
                if seat.is_alive:
                    _apply(step, seat.process.pid)
                    forced.update({seat.number} if step != "wait" else ())
            deadline = monotonic() + seconds
            while any(seat.is_alive for seat in self._seats) and monotonic() < deadline:
                self._wait(max(0.0, deadline - monotonic()))
        self._report_exits(forced)

    def _report_exits(self, forced: set[int]) -> None:
        allowed = {None, *self._plan.allowed_exit_codes}
        wrong = {
            seat.number: seat.final_code
            for seat in self._seats
            if seat.number not in forced and seat.final_code not in allowed
        }
        if wrong:
            self._control.send(("failed", f"Workers ended with the wrong exit codes: {wrong}."))


def _apply(step: Escalation, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if step == "interrupt":
            os.kill(pid, signal.SIGINT)
        elif step == "terminate":
            os.kill(pid, signal.SIGTERM)
        elif step == "kill":
            kill_group(pid)


def _last_words(report: Connection | None) -> str | None:
    if report is None:
        return None
    with report:
        try:
            return report.recv() if report.poll(0) else None
        except EOFError:
            return None
