"""The critic: a model beside the policy that predicts what is still to be earned.

It shares nothing that is trained with the policy. Over adapters it is one more adapter of the same
frozen base; beside a model that is trained whole it is a copy of the decoder. Either has a linear
head of its own. It runs the policy's packed rows and never makes logits.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agentlightning.errors import CheckpointError, NonFiniteLossError, TrainingError
from agentlightning.learning.forward import hidden_states
from agentlightning.learning.lora import adapter_parameters, using_adapter
from agentlightning.learning.optimizer import AdamWConfig, Optimizer
from agentlightning.learning.packing import PackedBatch, pack_rows
from agentlightning.learning.rows import RowBatch, TrainRow
from agentlightning.learning.step import StepConfig
from agentlightning.learning.value_head import ValueHead
from agentlightning.learning.value_loss import ValueLossSpec, value_loss

__all__ = ["CRITIC", "Critic", "CriticConfig"]

CRITIC = "critic"
"""Name of the critic's adapter; a policy's must be another."""

_WEIGHTS = "critic.safetensors"

Stream = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticConfig:
    """How a critic is trained. All else is as for the policy beside it."""

    lr: float = 1e-4
    grad_clip: float | None = 1.0
    weight_decay: float = 0.0


@dataclass(slots=True)
class _Statistics:
    loss: float = 0.0
    clipped: float = 0.0
    tokens: int = 0


class Critic:
    """Predicts a value before each trained token, and learns to.

    The value of token `t` comes from the hidden state of token `t - 1`: it is what was to be
    expected before `t` was drawn. Not thread-safe; with adapters, nobody may run the model
    meanwhile.
    """

    def __init__(
        self, model: nn.Module, config: CriticConfig, step: StepConfig, *, lora: bool
    ) -> None:
        """Make a critic that predicts 0 everywhere.

        Args:
            model: The policy's model. With `lora`, one that has an adapter named `critic`.
            config: How it is trained.
            step: How rows are laid out.
            lora: Whether to compute with that adapter, and not with a copy of the decoder.
        """
        decoder = cast("Any", model).get_decoder()
        self._step, self._lora = step, lora
        self._trunk: nn.Module = model if lora else copy.deepcopy(decoder)
        width = int(decoder.config.hidden_size)
        self.head = ValueHead(width, device=next(model.parameters()).device)
        self.optimizer = Optimizer(
            self._trained(),
            AdamWConfig(lr=config.lr, grad_clip=config.grad_clip, weight_decay=config.weight_decay),
        )

    def _trained(self) -> nn.Module:
        """Return a module whose parameters are all that the critic trains."""
        trained = nn.Module()
        trained.add_module("head", self.head)
        if self._lora:
            for name, parameter in adapter_parameters(self._trunk, CRITIC).items():
                trained.register_parameter(name.replace(".", "/"), parameter)
        else:
            trained.add_module("trunk", self._trunk.requires_grad_(True))
        return trained

    def _active(self) -> AbstractContextManager[None]:
        return using_adapter(self._trunk, CRITIC) if self._lora else nullcontext()

    def _packs(self, rows: Sequence[TrainRow]) -> list[PackedBatch]:
        share = self._step.layout == "tree"
        return pack_rows(rows, max_slots=self._step.max_slots, share=share)

    def _forward(self, pack: PackedBatch) -> Tensor:
        """Return the value of each trained token of a pack, `[K]`."""
        hidden_ND = hidden_states(
            self._trunk,
            pack,
            layout=self._step.layout,
            recompute=self._step.recomputes(len(pack.ids)),
        )
        slot_K = torch.from_numpy(pack.head_slot[pack.token_pair]).to(hidden_ND.device)
        # Perf: rows of a group meet in the same slots, which have one value each.
        slot_M, back_K = slot_K.unique(return_inverse=True)
        return self.head(hidden_ND.index_select(0, slot_M))[back_K]

    def values(self, batch: RowBatch) -> list[Stream]:
        """Predict the value of every trained token.

        Returns:
            A stream per row, 0 where nothing is trained.
        """
        found: dict[int, Stream] = {}
        with torch.no_grad(), self._active():
            for pack in self._packs(batch.rows):
                streams = pack.scatter(self._forward(pack).cpu().numpy())
                found |= {id(row): v for row, v in zip(pack.rows, streams, strict=True)}
        nothing = [np.zeros(len(row.ids), dtype=np.float32) for row in batch]
        return [
            np.where(row.mask, found.get(id(row), empty), empty)
            for row, empty in zip(batch, nothing, strict=True)
        ]

    def learn(self, batch: RowBatch, spec: ValueLossSpec) -> dict[str, float]:
        """Move the values towards the rows' `returns`, each token by its weight.

        Args:
            batch: Rows with `returns` and with the `values` from before the step.
            spec: The loss, and how often.

        Returns:
            `critic/vf_loss` and `critic/vf_clip_fraction`, averages over the updates, and
            `critic/grad_norm`, `critic/lr`.

        Raises:
            EmptyBatchError: No row has a trained token.
            TrainingError: A row lacks returns or values.
            NonFiniteLossError: The loss or gradient is not finite; nothing was updated by it.
        """
        batch.require_signal()
        if any(row.returns is None or row.values is None for row in batch):
            raise TrainingError("a critic's step needs rows with returns and values")
        statistics, norms = _Statistics(), list[float]()
        self.optimizer.zero_grad()
        with self._active():
            for _ in range(spec.epochs):
                for mini in batch.split(spec.mini_batches):
                    for pack in self._packs(mini.rows):
                        self._loss(pack, spec, statistics).backward()
                    norms.append(self.optimizer.update())
        return {
            "critic/vf_loss": statistics.loss / len(norms),
            "critic/vf_clip_fraction": statistics.clipped / statistics.tokens,
            "critic/grad_norm": sum(norms) / len(norms),
            "critic/lr": self.optimizer.lr,
        }

    def _loss(self, pack: PackedBatch, spec: ValueLossSpec, statistics: _Statistics) -> Tensor:
        value_K = self._forward(pack)

        def stream(name: str) -> Tensor:
            return torch.from_numpy(pack.gather(name)).to(value_K.device)

        loss_K, clipped_K = value_loss(value_K, stream("values"), stream("returns"), clip=spec.clip)
        total = (stream("weight") * loss_K).sum()
        if not torch.isfinite(total):
            self.optimizer.zero_grad()
            raise NonFiniteLossError(
                "the critic's loss is not finite: look for extreme rewards, lower "
                "critic_learning_rate, or go on from the last checkpoint. Nothing was updated by it"
            )
        statistics.loss += float(total.detach())
        statistics.clipped += float(clipped_K.sum())
        statistics.tokens += len(loss_K)
        return total

    def save(self, path: Path) -> dict[str, Any]:
        """Write the weights into the directory `path` and return the optimiser's state."""
        tensors = self.optimizer.parameters()
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path / _WEIGHTS)
        return self.optimizer.state()

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Go on exactly from what `save` wrote and returned.

        Raises:
            CheckpointError: The weights are missing, damaged or those of another critic.
        """
        try:
            tensors = load_file(path / _WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read the critic in {path}: {error}") from error
        want = {name: tuple(t.shape) for name, t in self.optimizer.parameters().items()}
        if want != {name: tuple(t.shape) for name, t in tensors.items()}:
            raise CheckpointError(f"the checkpoint in {path} has another critic")
        self.optimizer.load_parameters(tensors)
        self.optimizer.load_state(state)
