"""Training a model that is too large for one device with its optimiser: each holds a shard.

Weights, gradients and optimiser state are cut into shards by PyTorch's `fully_shard` (FSDP2), and
each layer is put together for as long as it is computed with. Every device has a worker. This
process keeps what samples, a whole model without gradients or optimiser, and takes over the
trained weights after each step. Adapters are small: every worker has them whole.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from agentlightning.errors import ConfigurationError, TrainingError
from agentlightning.learning.backends.distributed import LoadModel
from agentlightning.learning.backends.shard import Shard
from agentlightning.learning.backends.torch import LoadReference, TorchConfig, TorchTrainBackend
from agentlightning.learning.backends.weights_file import WeightsFile
from agentlightning.learning.backends.workers import Workers
from agentlightning.learning.lora import ADAPTER, adapter_parameters, using_adapter
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.optimizer import Optimizer
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.step import StepOutcome, staleness, step_metrics, with_fixed_scores

__all__ = ["ShardedTrainBackend"]


class ShardedTrainBackend(TorchTrainBackend):
    """Sharded training: what `TorchTrainBackend` does, for models as large as all devices together.

    Checkpoints are the same files. Scores, a critic and exports are this process's alone, so a
    loss that compares with earlier scores (several updates, KL) takes a forward pass here first.
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
        """Start the workers and wait until they have the weights of `model`.

        Args:
            model: The model of this process, which samples; on the first device, or on any other.
            load: Loads the same model in a worker, in its memory and not on its device.
            devices: Devices of the workers: `cuda:0`, `cuda:1`, `cpu`.
            config: How to train.
            load_reference: See `TorchTrainBackend`; it stays whole, in this process.

        Raises:
            ConfigurationError: There are fewer than two devices, or the model cannot be trained.
            TrainingError: A worker cannot load the model.
        """
        super().__init__(model, config=config, load_reference=load_reference)
        if len(devices) < 2:
            raise ConfigurationError("give two devices or more to share a model out between")
        worker = partial(Shard, load, replace(self.config, critic=None))
        self._workers = Workers(worker, devices, first_rank=0, lockstep=True)
        self._at_work = Lock()
        with ExitStack() as undo:
            undo.callback(self.close)
            self._file = WeightsFile(self._workers.meeting / "weights", self._parameters())
            self._file.write()
            self._workers.call("load")
            self._workers.call("join")
            undo.pop_all()
        slots = self._slots_in_memory(self._step.layout)
        self._step = replace(
            self._step, max_slots=min(self.config.max_slots, slots), recompute_above=slots
        )

    def _make_optimizers(self) -> dict[str, Optimizer]:
        # Why: its state is what one device has no room for; the workers have it.
        return {}

    def _parameters(self) -> dict[str, Tensor]:
        if self.config.lora is None:
            return dict(self.model.named_parameters())
        found: dict[str, Tensor] = {}
        for adapter in self.config.adapters:
            found |= adapter_parameters(self.model, adapter)
        return found

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
        with using_adapter(self.model, adapter):
            batch = self._with_reference(batch, loss)
            scored = with_fixed_scores(self.model, batch, loss, self._step)
        with self._at_work:
            answers = self._step_all(scored, loss, adapter)
        (outcome, lr), *others = answers
        for other, _ in others:
            outcome.statistics.merge(other.statistics)
            outcome.n_slots += other.n_slots
        metrics = step_metrics(batch, loss, outcome) | {
            "training/lr": lr,
            "training/seconds": perf_counter() - started,
        }
        return metrics if version is None else metrics | staleness(batch, version)

    def _step_all(
        self, batch: RowBatch, loss: LossSpec, adapter: str
    ) -> list[tuple[StepOutcome, float]]:
        self._workers.tell("step", batch, loss, adapter, self._step)
        answers = self._workers.hear()
        self._file.read()
        errors = [answer for answer in answers if isinstance(answer, TrainingError)]
        if errors:
            # The process whose part went wrong says most; the others saw the sum.
            raise next((e for e in errors if "the gradient of" not in str(e)), errors[0])
        return answers

    def _save_trained(self, path: Path, state: dict[str, Any]) -> None:
        with self._at_work:
            self._workers.call("save", path, state)

    def _restore_trained(
        self, path: Path, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        del state
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                parameter.copy_(tensors[name])
        with self._at_work:
            self._workers.call("restore", path)

    def close(self) -> None:
        """End the workers, after a step that is under way in another thread; idempotent."""
        with self._at_work:
            self._workers.close()
