"""Processes that train beside this one: started, told what to do, listened to, ended.

A worker is an object that lives in a process of its own; its methods are called by name, of all
workers at once. Knows nothing about training but that its errors are `TrainingError`.
"""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from agentlightning.errors import ExplodingGradientError, NonFiniteLossError, TrainingError

_ABOUT_NUMBERS = (NonFiniteLossError, ExplodingGradientError)

__all__ = ["MakeWorker", "Place", "Workers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker stands among all processes that train."""

    rank: int
    size: int
    device: str
    meeting: Path
    """A directory that all processes of this training share, and nobody else."""

    threads: int
    """Threads that it may compute with."""


MakeWorker = Callable[[Place], Any]
"""Makes the object that lives in a worker; called there, so it must be picklable."""


def _work(pipe: connection.Connection, make: MakeWorker, place: Place) -> None:
    """Serve until told to stop, or until nobody is left to serve; the top of a worker process."""
    # A Ctrl-C of the terminal is for the main process, which may want one more step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    worker = make(place)
    while (order := _next(pipe)) is not None:
        method, arguments = order
        try:
            answer = getattr(worker, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - boundary: told to the parent, which raises it
            known = isinstance(error, TrainingError)
            answer = error if known else TrainingError(f"{type(error).__name__}: {error}")
            answer.add_note(f"in the training process on {place.device}, rank {place.rank}")
        pipe.send(answer)


def _next(pipe: connection.Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


class Workers:
    """Worker processes that do the same things at the same time. Not thread-safe.

    They end with this process in any case, and with `close`.
    """

    def __init__(
        self,
        make: MakeWorker,
        devices: Sequence[str],
        *,
        first_rank: int,
        lockstep: bool = False,
    ) -> None:
        """Start a process for each device.

        Args:
            make: Makes a worker.
            devices: Where they compute.
            first_rank: Rank of the first worker; those below are this process.
            lockstep: Whether the others wait for one that fails, so that all must be ended. Errors
                about numbers (`NonFiniteLossError`, `ExplodingGradientError`) are not failures.
        """
        context, size = multiprocessing.get_context("spawn"), first_rank + len(devices)
        self._directory = tempfile.TemporaryDirectory(prefix="agl-train-")
        self.meeting = Path(self._directory.name)
        self.size = size
        self._lockstep = lockstep
        self._pipes: list[connection.Connection] = []
        self._processes: list[Any] = []
        for rank, device in enumerate(devices, start=first_rank):
            ours, theirs = context.Pipe()
            place = Place(
                rank=rank,
                size=size,
                device=device,
                meeting=self.meeting,
                threads=max(1, torch.get_num_threads() // size),
            )
            process = context.Process(target=_work, args=(theirs, make, place), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Let every worker do something and return their answers, by rank.

        Raises:
            TrainingError: A worker failed or ended.
        """
        self.tell(method, *arguments)
        return self.answers()

    def tell(self, method: str, *arguments: Any) -> None:
        """Let every worker do something; `answers` or `hear` must follow."""
        for pipe in self._pipes:
            try:
                pipe.send((method, arguments))
            except OSError as error:
                raise _ended() from error

    def answers(self) -> list[Any]:
        """Return what every worker answered, by rank.

        Raises:
            TrainingError: A worker failed or ended.
        """
        answers = self.hear()
        for answer in answers:
            if isinstance(answer, TrainingError):
                raise answer
        return answers

    def hear(self) -> list[Any]:
        """Return what every worker answered, by rank, errors among it.

        Raises:
            TrainingError: A worker ended. The others may wait for it forever: `close` them.
        """
        answers: dict[connection.Connection, Any] = {}
        while missing := [pipe for pipe in self._pipes if pipe not in answers]:
            for pipe in connection.wait(missing):
                assert isinstance(pipe, connection.Connection)
                answers[pipe] = self._receive(pipe)
        return [answers[pipe] for pipe in self._pipes]

    def _receive(self, pipe: connection.Connection) -> Any:
        try:
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            self._end_waiting()
            raise _ended() from error
        if isinstance(answer, TrainingError) and not isinstance(answer, _ABOUT_NUMBERS):
            self._end_waiting()
            if self._lockstep:
                raise answer
        return answer

    def _end_waiting(self) -> None:
        if self._lockstep:
            for process in self._processes:
                process.terminate()

    def close(self) -> None:
        """End the workers; idempotent."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()
        self._pipes.clear()
        self._processes.clear()
        self._directory.cleanup()


def _ended() -> TrainingError:
    return TrainingError("a training process ended; go on from a checkpoint")
