"""Training with PyTorch in this process, on the very module that samples.

LoRA by default for large models, full fine-tuning for small ones; the choice is the caller's.
Owns the optimiser and its state, not the model's use: whoever samples from the same module must
pause around `step` and `restore`.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.learning.backends.base import BackendCapabilities
from agentlightning.learning.export import export_adapter, export_merged
from agentlightning.learning.forward import Layout, check_head, choose_layout
from agentlightning.learning.lora import LoraConfig, inject_lora
from agentlightning.learning.losses import LossSpec, loss_names
from agentlightning.learning.optimizer import AdamWConfig, Optimizer
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.step import StepConfig, score_rows, train_step

__all__ = ["LoraConfig", "TorchConfig", "TorchTrainBackend"]

logger = logging.getLogger(__name__)

LORA_LR = 2e-5
FULL_LR = 1e-6

_WEIGHTS = "trained.safetensors"
_STATE = "state.pt"
_META = "backend.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchConfig:
    """How `TorchTrainBackend` trains."""

    lora: LoraConfig | None = None
    """Adapters to train; None trains every parameter."""

    lr: float | None = None
    """Learning rate; by default 2e-5 with adapters and 1e-6 without. Tiny models trained from
    scratch want 1e-3 to 1e-2."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    warmup_steps: int = 0
    max_slots: int = 2048
    """Slots (distinct tokens) of one forward pass. 2048 of a 135M model in bf16 take about 2 GB."""

    layout: Literal["auto"] | Layout = "auto"
    """How rows are laid out; `auto` shares prefixes where the model's attention allows it."""

    entropy: bool = False
    """Report the policy's entropy."""

    def optimizer(self) -> AdamWConfig:
        """Return the optimiser's part."""
        default = FULL_LR if self.lora is None else LORA_LR
        return AdamWConfig(
            lr=default if self.lr is None else self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            warmup_steps=self.warmup_steps,
        )


class TorchTrainBackend:
    """Trains a causal language model of transformers in place.

    `model` keeps its identity and class: adapters are put inside it. It is left in evaluation
    mode, so that dropout never makes sampling and training disagree.
    """

    def __init__(self, model: nn.Module, *, config: TorchConfig | None = None) -> None:
        """Prepare `model` for training.

        Raises:
            ConfigurationError: The model cannot be trained this way.
        """
        self.config = config or TorchConfig()
        self.model = model.eval()
        check_head(model)
        layout = choose_layout(model) if self.config.layout == "auto" else self.config.layout
        if self.config.lora is not None:
            inject_lora(model, self.config.lora)
        else:
            model.requires_grad_(True)
        self.optimizer = Optimizer(model, self.config.optimizer())
        self._step = StepConfig(
            max_slots=self.config.max_slots,
            layout=layout,
            entropy=self.config.entropy,
        )
        n_trained = sum(p.numel() for p in self.optimizer.parameters().values())
        logger.info("train backend ready", extra={"layout": layout, "trained": n_trained})

    @property
    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(
            losses=frozenset(loss_names()),
            lora=self.config.lora is not None,
            prefix_packing=self._step.layout == "tree",
            reference=self.config.lora is not None,
        )

    def logprobs(self, batch: RowBatch) -> list[NDArray[np.float32]]:
        return score_rows(self.model, batch, self._step)

    def step(self, batch: RowBatch, loss: LossSpec) -> dict[str, float]:
        return train_step(self.model, self.optimizer, batch, loss, self._step)

    def save(self, path: Path) -> None:
        tensors = {name: t.detach() for name, t in self.optimizer.parameters().items()}
        save_file({name: t.contiguous() for name, t in tensors.items()}, path / _WEIGHTS)
        state = {"optimizer": self.optimizer.state(), "torch_rng": torch.get_rng_state()}
        torch.save(state, path / _STATE)
        lora = self.config.lora
        shape = None if lora is None else {"r": lora.r, "alpha": lora.alpha}
        (path / _META).write_text(json.dumps({"format": 1, "lora": shape}))

    def restore(self, path: Path) -> None:
        try:
            meta = json.loads((path / _META).read_text())
            tensors = load_file(path / _WEIGHTS)
            state = torch.load(path / _STATE, weights_only=True)
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"cannot read the checkpoint in {path}: {error}") from error
        lora = self.config.lora
        if meta["lora"] != (None if lora is None else {"r": lora.r, "alpha": lora.alpha}):
            raise CheckpointError(
                f"the checkpoint in {path} has adapters {meta['lora']}, this run {lora}; use the "
                "configuration it was written with"
            )
        try:
            self.optimizer.load_parameters(tensors)
        except ConfigurationError as error:
            raise CheckpointError(f"the checkpoint in {path} is of another model") from error
        self.optimizer.load_state(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])

    def export(self, path: Path, *, merged: bool = False) -> None:
        path.mkdir(parents=True, exist_ok=True)
        if self.config.lora is None or merged:
            export_merged(cast("Any", self.model), path)
        else:
            export_adapter(cast("Any", self.model), path)
