"""One process's shard of a model under training; the worker of `ShardedTrainBackend`.

All shards must run the same passes at the same time, or they wait for each other. Hence whoever
has fewer packs than the others repeats one of theirs without weight, and one that meets a bad
number makes the gradient NaN and goes on, so that all refuse it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from agentlightning.errors import NonFiniteLossError
from agentlightning.learning.backends.distributed import PATIENCE, share_of
from agentlightning.learning.backends.torch import STATE, WEIGHTS, TorchConfig
from agentlightning.learning.backends.weights_file import WeightsFile
from agentlightning.learning.backends.workers import Place
from agentlightning.learning.forward import score_pack
from agentlightning.learning.logprobs import TokenScores
from agentlightning.learning.lora import adapter_parameters, inject_lora, using_adapter
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.objective import StepStatistics, objective
from agentlightning.learning.optimizer import Optimizer
from agentlightning.learning.packing import PackedBatch
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.step import (
    StepConfig,
    StepOutcome,
    packs_of,
    scoring_of,
    update_weights,
)

__all__ = ["Shard"]


class _Scorer(nn.Module):
    """Scores packs as a module, so that weights are put together for as long as it runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pack: PackedBatch, **how: Any) -> TokenScores:
        return score_pack(self.model, pack, **how)


class Shard:
    """Its methods are called in the order `load`, `join`, then any, in all processes alike."""

    def __init__(self, load: Callable[[str], nn.Module], config: TorchConfig, place: Place) -> None:
        """Remember what to load; see `ShardedTrainBackend`."""
        self._load, self._config, self._place = load, config, place
        self._model: nn.Module
        self._scorer: nn.Module
        self._file: WeightsFile
        self._optimizers: dict[str, Optimizer]

    def load(self) -> None:
        """Load the whole model into memory, with the weights of the first process."""
        config, model = self._config, self._load("cpu").eval()
        if config.lora is not None:
            inject_lora(model, config.lora, config.adapters)
        else:
            model.requires_grad_(True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._file = WeightsFile(self._place.meeting / "weights", trained)
        self._file.read()
        self._model = model

    def join(self) -> None:
        """Keep one shard of it, on this process's device."""
        place, device = self._place, torch.device(self._place.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        library: Any = distributed
        library.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=library.FileStore(str(place.meeting / "store"), place.size),
            rank=place.rank,
            world_size=place.size,
            timeout=PATIENCE,
        )
        self._cut(init_device_mesh(device.type, (place.size,)), device)
        adamw = self._config.optimizer()
        if self._config.lora is None:
            (name,) = self._config.adapters
            self._optimizers = {name: Optimizer(self._model, adamw)}
            return
        self._optimizers = {
            name: Optimizer(self._model, adamw, adapter=name) for name in self._config.adapters
        }
        for optimizer in self._optimizers.values():
            optimizer.reduce = _sum

    def _cut(self, mesh: DeviceMesh, device: torch.device) -> None:
        whole = set(adapter_parameters(self._model).values())
        for parameter in whole:
            parameter.data = parameter.data.to(device)
        self._scorer = _Scorer(self._model)
        decoder = cast("Any", self._model).get_decoder()
        for module in (*getattr(decoder, "layers", ()), self._scorer):
            sharded = fully_shard(
                module,
                mesh=mesh,
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
                ignored_params=whole,
            )
            assert isinstance(sharded, FSDPModule)
            # Weights of tokens are shares of the whole batch, so gradients add up.
            sharded.set_gradient_divide_factor(1.0)
            # Why: without, the factor goes into the sum, which gloo cannot do.
            sharded.set_force_sum_reduction_for_comms(True)

    def step(
        self, batch: RowBatch, loss: LossSpec, adapter: str, config: StepConfig
    ) -> tuple[StepOutcome, float]:
        """Take part in a step; returns what became of this process's rows, and the learning rate.

        Args:
            batch: The whole batch, with scores from before the step where the loss needs them.
            loss: What to minimise.
            adapter: What to train.
            config: How; the same in all processes.
        """
        optimizer, statistics = self._optimizers[adapter], StepStatistics()
        norms, n_slots = list[float](), 0
        optimizer.zero_grad()
        try:
            with using_adapter(self._model, adapter):
                for _ in range(loss.epochs):
                    for mini in batch.split(loss.mini_batches):
                        slots, fault = self._add_gradient(mini, loss, config, statistics)
                        n_slots += slots
                        norms.append(self._update(optimizer, mini, statistics, fault))
        finally:
            # Also after an error, which all processes have: updates before it hold.
            self._publish()
        return StepOutcome(statistics, norms, n_slots), optimizer.lr

    def _add_gradient(
        self, mini: RowBatch, loss: LossSpec, config: StepConfig, statistics: StepStatistics
    ) -> tuple[int, NonFiniteLossError | None]:
        """Add the gradient of this process's rows; returns their slots, and what went wrong."""
        rank, size = self._place.rank, self._place.size
        shares = [packs_of(share_of(mini, n, size).rows, config) for n in range(size)]
        mine, longest = shares[rank], max(shares, key=len)
        fault: NonFiniteLossError | None = None
        for number, other in enumerate(longest):
            pack = mine[number] if number < len(mine) else other
            scores = self._scorer(pack, **scoring_of(pack, mini, loss, config))
            value = scores.logp.sum() * 0.0
            if number < len(mine):
                try:
                    value = objective(pack, scores, loss, statistics)
                except NonFiniteLossError as error:
                    fault, value = error, value * math.nan
            value.backward()
        return sum(len(pack.ids) for pack in mine), fault

    @staticmethod
    def _update(
        optimizer: Optimizer,
        mini: RowBatch,
        statistics: StepStatistics,
        fault: NonFiniteLossError | None,
    ) -> float:
        try:
            return update_weights(optimizer, mini, statistics)
        except NonFiniteLossError as error:
            raise fault or error from error

    def _publish(self) -> None:
        """Write what is trained for the process that samples."""
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                whole = _whole(parameter)
                if self._place.rank == 0:
                    self._file.put(name, whole)

    def save(self, path: Path, state: dict[str, Any]) -> None:
        """Write the checkpoint of one process that has the whole model; `state` is put beside."""
        tensors, states = dict[str, Tensor](), dict[str, Any]()
        for adapter, optimizer in self._optimizers.items():
            for name, tensor in optimizer.parameters().items():
                tensors[name] = self._on_first(tensor)
            stored = optimizer.state()
            stored["adamw"]["state"] = {
                number: {key: self._on_first(tensor) for key, tensor in moments.items()}
                for number, moments in stored["adamw"]["state"].items()
            }
            states[adapter] = stored
        if self._place.rank == 0:
            save_file(tensors, path / WEIGHTS)
            torch.save({"optimizers": states, **state}, path / STATE)

    def _on_first(self, tensor: Tensor) -> Tensor:
        """Return a tensor as a whole where it is to be written, and nothing elsewhere."""
        whole = _whole(tensor.detach())
        return whole.cpu().contiguous() if self._place.rank == 0 else torch.empty(0)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint that the first process has looked through."""
        state = torch.load(path / STATE, weights_only=True, mmap=True)
        with safe_open(path / WEIGHTS, framework="pt") as file:
            for adapter, optimizer in self._optimizers.items():
                have = optimizer.parameters()
                optimizer.load_parameters(
                    {name: _like(file.get_tensor(name), have[name]) for name in optimizer.names}
                )
                stored = state["optimizers"][adapter]
                for number, moments in stored["adamw"]["state"].items():
                    mine = have[optimizer.names[number]]
                    for key, tensor in moments.items():
                        moments[key] = _like(tensor, mine) if tensor.ndim else tensor
                optimizer.load_state(stored)


def _sum(vector: Tensor) -> None:
    distributed.all_reduce(vector)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(whole: Tensor, mine: Tensor) -> Tensor:
    """Return this process's shard of `whole`, where `mine` is a shard."""
    if not isinstance(mine, DTensor):
        return whole
    own = whole.to(mine.device)
    return distribute_tensor(own, mine.device_mesh, mine.placements, src_data_rank=None)
