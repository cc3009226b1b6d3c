"""Training on several devices of one machine: a process for each, gradients added up.

The first device is this process's, with the model that also samples; every other one has a worker
with a copy of its own. Each computes the gradient of its share of the rows, the sum goes to all,
and all make the same update, so copies never drift apart. Weights of tokens are shares of the
whole batch, so the sum is the gradient of one process. Every device holds the whole model:
parameters are not sharded.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, distributed, nn

from agentlightning.errors import ConfigurationError, TrainingError
from agentlightning.learning.backends.torch import LoadReference, TorchConfig, TorchTrainBackend
from agentlightning.learning.backends.workers import Place, Workers
from agentlightning.learning.lora import ADAPTER, using_adapter
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.step import StepOutcome, run_step, staleness, step_metrics

__all__ = ["PATIENCE", "DistributedTrainBackend", "LoadModel", "other_devices", "share_of"]

LoadModel = Callable[[str], nn.Module]
"""Loads the same model onto a device; called in a worker, so it must be picklable."""

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the gradients of the others."""


def share_of(batch: RowBatch, rank: int, size: int) -> RowBatch:
    """Return one process's rows: whole rollouts, neighbours in one group, of about equal length."""
    tokens: dict[tuple[str, str], int] = {}
    for row in batch.rows:
        key = (row.group_id, row.rollout_id)
        tokens[key] = tokens.get(key, 0) + len(row.ids)
    total, before, mine = sum(tokens.values()), 0, set[tuple[str, str]]()
    for key in sorted(tokens):
        if min(size - 1, before * size // total) == rank:
            mine.add(key)
        before += tokens[key]
    rows = tuple(row for row in batch.rows if (row.group_id, row.rollout_id) in mine)
    return replace(batch, rows=rows)


def other_devices(first: torch.device, count: int) -> list[str]:
    """Return the devices beside `first` that make `count` with it, all of one kind.

    A CPU is one device that any number of processes share.

    Raises:
        ConfigurationError: There are fewer on this machine.
    """
    if first.type == "cpu":
        return ["cpu"] * (count - 1)
    there = torch.cuda.device_count() if first.type == "cuda" else 1
    if there < count:
        raise ConfigurationError(
            f"devices={count}, but this machine has {there} of the kind {first.type!r}."
        )
    own = first.index or 0
    return [f"{first.type}:{n}" for n in range(there) if n != own][: count - 1]


class _Group:
    """One process's end of the sum over all of them; touches no global state of torch."""

    def __init__(self, meeting: Path, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size = rank, size
        library: Any = distributed
        store = library.FileStore(str(meeting / "store"), size)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            self._group: Any = library.ProcessGroupNCCL(store, rank, size, PATIENCE)
        else:
            self._group = library.ProcessGroupGloo(store, rank, size, PATIENCE)

    def sum(self, vector: Tensor) -> None:
        self._group.allreduce([vector]).wait()

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            self._group.broadcast(tensor, 0).wait()


def _join(backend: TorchTrainBackend, group: _Group) -> None:
    """Make a backend one of the group: equal weights, summed gradients."""
    for optimizer in backend.optimizers.values():
        mine = {name: tensor.detach().clone() for name, tensor in optimizer.parameters().items()}
        group.copy_from_first(list(mine.values()))
        optimizer.load_parameters(mine)
        optimizer.reduce = group.sum


def _run_share(
    backend: TorchTrainBackend, group: _Group, batch: RowBatch, loss: LossSpec, adapter: str
) -> StepOutcome:
    with using_adapter(backend.model, adapter):
        return run_step(
            backend.model,
            backend.optimizers[adapter],
            batch,
            loss,
            backend.step_config,
            part=lambda mini: share_of(mini, group.rank, group.size),
        )


class _Replica:
    """A worker: trains a copy of the model on its share of the rows."""

    def __init__(self, load: LoadModel, config: TorchConfig, place: Place) -> None:
        self._load, self._config, self._place = load, config, place
        self._backend: Any = None
        self._group: Any = None

    def load(self) -> None:
        self._backend = TorchTrainBackend(self._load(self._place.device), config=self._config)

    def join(self) -> None:
        place = self._place
        self._group = _Group(place.meeting, place.rank, place.size, torch.device(place.device))
        _join(self._backend, self._group)

    def restore(self, path: Path) -> None:
        self._backend.restore(path)

    def step(self, batch: RowBatch, loss: LossSpec, adapter: str) -> StepOutcome:
        return _run_share(self._backend, self._group, batch, loss, adapter)


class DistributedTrainBackend(TorchTrainBackend):
    """Data-parallel training: what `TorchTrainBackend` does, on several devices at once.

    Checkpoints are the same files. Scores, a critic and exports are the first process's alone.
    Call `close` when done; workers end with this process in any case.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        load: LoadModel,
        devices: Sequence[str],
        config: TorchConfig | None = None,
        load_reference: LoadReference | None = None,
    ) -> None:
        """Start the workers and wait until their weights are those of `model`.

        Args:
            model: The model of this process, which also samples; on the first device.
            load: Loads the same model in a worker.
            devices: Devices of the workers, besides that of `model`: `cuda:1`, `cpu`.
            config: How to train.
            load_reference: See `TorchTrainBackend`; it stays in this process.

        Raises:
            ConfigurationError: There are no workers, or the model cannot be trained this way.
            TrainingError: A worker cannot load the model.
        """
        super().__init__(model, config=config, load_reference=load_reference)
        if not devices:
            raise ConfigurationError("give the devices of further processes, or TorchTrainBackend")
        replica = partial(_Replica, load, replace(self.config, critic=None))
        self._workers = Workers(replica, devices, first_rank=1)
        self._at_work = Lock()
        with ExitStack() as undo:
            undo.callback(self.close)
            # All must have a model before any waits for the others.
            self._workers.call("load")
            self._workers.tell("join")
            device = next(model.parameters()).device
            self._group = _Group(self._workers.meeting, 0, self._workers.size, device)
            _join(self, self._group)
            self._workers.answers()
            undo.pop_all()

    def step(
        self,
        batch: RowBatch,
        loss: LossSpec,
        adapter: str = ADAPTER,
        *,
        version: int | None = None,
    ) -> dict[str, float]:
        self._check_adapter(adapter)
        started = perf_counter()
        batch.require_signal()
        with self._at_work:
            outcome = self._run(self._with_reference(batch, loss), loss, adapter)
        metrics = step_metrics(batch, loss, outcome) | {
            "training/lr": self.optimizers[adapter].lr,
            "training/seconds": perf_counter() - started,
        }
        return metrics if version is None else metrics | staleness(batch, version)

    def _run(self, batch: RowBatch, loss: LossSpec, adapter: str) -> StepOutcome:
        self._workers.tell("step", batch, loss, adapter)
        try:
            outcome = _run_share(self, self._group, batch, loss, adapter)
        except TrainingError as error:
            # A fault of another process arrives here as a gradient that is not finite.
            raise self._first_error(error) from error
        for other in self._workers.answers():
            outcome.statistics.merge(other.statistics)
            outcome.n_slots += other.n_slots
        return outcome

    def restore(self, path: Path) -> None:
        super().restore(path)
        with self._at_work:
            self._workers.call("restore", path)

    def _first_error(self, own: TrainingError) -> TrainingError:
        """Return the error that says most: that of the process whose part went wrong."""
        named = [e for e in (own, *self._workers.hear()) if "the gradient of" not in str(e)]
        return next((error for error in named if isinstance(error, TrainingError)), own)

    def close(self) -> None:
        """End the workers, after a step that is under way in another thread; idempotent."""
        with self._at_work:
            self._workers.close()
