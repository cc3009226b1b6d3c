"""Training with PyTorch in this process, on the very module that samples.

LoRA by default for large models, full fine-tuning for small ones; the choice is the caller's.
Owns the optimiser and its state, not the model's use: whoever samples from the same module must
pause around `step` and `restore`.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agentlightning.errors import CheckpointError, ConfigurationError
from agentlightning.learning.backends.base import BackendCapabilities
from agentlightning.learning.critic import CRITIC, Critic, CriticConfig
from agentlightning.learning.export import export_adapter, export_merged
from agentlightning.learning.forward import Layout, activation_bytes, check_head, choose_layout
from agentlightning.learning.lora import (
    ADAPTER,
    LoraConfig,
    adapters_disabled,
    inject_lora,
    using_adapter,
)
from agentlightning.learning.losses import LossSpec, loss_names
from agentlightning.learning.optimizer import AdamWConfig, Optimizer
from agentlightning.learning.rows import RowBatch
from agentlightning.learning.step import StepConfig, score_rows, staleness, train_step
from agentlightning.learning.value_loss import ValueLossSpec

__all__ = ["STATE", "WEIGHTS", "LoadReference", "LoraConfig", "TorchConfig", "TorchTrainBackend"]

logger = logging.getLogger(__name__)

DEFAULT_ACTIVATION_BYTES = 1 << 30
LoadReference = Callable[[], nn.Module]

LORA_LR = 2e-5
FULL_LR = 1e-6

FORMAT = 2
"""Version of what `save` writes."""

WEIGHTS, STATE = "trained.safetensors", "state.pt"
"""Files of a checkpoint: what is trained, and the rest that is needed to go on."""

_META = "backend.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchConfig:
    """How `TorchTrainBackend` trains."""

    lora: LoraConfig | None = None
    """Shape of the adapters to train; None trains every parameter."""

    adapters: tuple[str, ...] = (ADAPTER,)
    """Names of the adapters, each trained by steps and an optimiser of its own."""

    lr: float | None = None
    """Learning rate; by default 2e-5 with adapters and 1e-6 without. Tiny models trained from
    scratch want 1e-3 to 1e-2."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    grad_norm_limit: float | None = None
    grad_norm_spike: float | None = 1000.0
    """Gradients larger than this, or than so many times their running median, stop the training;
    see `AdamWConfig`."""

    warmup_steps: int = 0
    max_slots: int = 2048
    """Most slots (distinct tokens) of one forward pass."""

    activation_bytes: int | None = None
    """Memory for what a forward pass keeps; by default 1 GiB, on a CUDA device 40 % of what is free.
    Passes are cut to it; a single row that is longer computes its layers twice instead."""

    layout: Literal["auto"] | Layout = "auto"
    """How rows are laid out; `auto` shares prefixes where the model's attention allows it."""

    entropy: bool = True
    """Report the policy's entropy, at about a hundredth of a step's cost."""

    critic: CriticConfig | None = None
    """Train a critic beside the policy; None for algorithms without one."""

    def optimizer(self) -> AdamWConfig:
        """Return the optimiser's part."""
        default = FULL_LR if self.lora is None else LORA_LR
        return AdamWConfig(
            lr=default if self.lr is None else self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            grad_norm_limit=self.grad_norm_limit,
            grad_norm_spike=self.grad_norm_spike,
            warmup_steps=self.warmup_steps,
        )


class TorchTrainBackend:
    """Trains a causal language model of transformers in place.

    `model` keeps its identity and class: adapters are put inside it. It is left in evaluation
    mode, so that dropout never makes sampling and training disagree.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        config: TorchConfig | None = None,
        load_reference: LoadReference | None = None,
    ) -> None:
        """Prepare `model` for training.

        Args:
            model: What is trained.
            config: How.
            load_reference: Loads the model as it was before training, for losses that compare with
                it while every weight is trained; called when the first of them comes, and kept.
                Adapters need none: their base is the reference.

        Raises:
            ConfigurationError: The model cannot be trained this way.
        """
        self.config = config or TorchConfig()
        self.model = model.eval()
        self._load_reference = load_reference
        self._reference: nn.Module | None = None
        check_head(model)
        layout = choose_layout(model) if self.config.layout == "auto" else self.config.layout
        self._prepare_model()
        self.optimizers = self._make_optimizers()
        slots = self._slots_in_memory(layout)
        self._step = StepConfig(
            max_slots=min(self.config.max_slots, slots),
            recompute_above=slots,
            layout=layout,
            entropy=self.config.entropy,
        )
        self._critic = self._make_critic()
        n_trained = sum(parameter.numel() for parameter in self._parameters().values())
        logger.info(
            "train backend ready", extra={"layout": layout, "trained": n_trained, "slots": slots}
        )

    def _slots_in_memory(self, layout: Layout) -> int:
        """Return how many slots' activations fit into their share of the memory."""
        budget, device = self.config.activation_bytes, next(self.model.parameters()).device
        if budget is None and device.type == "cuda":
            budget = int(0.4 * torch.cuda.mem_get_info(device)[0])
        budget = DEFAULT_ACTIVATION_BYTES if budget is None else budget
        return max(1, int(budget / activation_bytes(self.model, layout)))

    def _prepare_model(self) -> None:
        """Put adapters into the model, and settle what is trained."""
        config = self.config
        if config.lora is not None:
            critic = () if config.critic is None else (CRITIC,)
            inject_lora(self.model, config.lora, (*config.adapters, *critic))
        elif config.adapters != (ADAPTER,):
            raise ConfigurationError(f"adapters {config.adapters!r} need a LoRA configuration")
        else:
            self.model.requires_grad_(True)

    def _make_optimizers(self) -> dict[str, Optimizer]:
        """Return an optimiser for each adapter, or one for the whole model."""
        config = self.config.optimizer()
        if self.config.lora is None:
            return {ADAPTER: Optimizer(self.model, config)}
        return {n: Optimizer(self.model, config, adapter=n) for n in self.config.adapters}

    def _make_critic(self) -> Critic | None:
        config = self.config
        if config.critic is None:
            return None
        return Critic(self.model, config.critic, self._step, lora=config.lora is not None)

    @property
    def critic(self) -> Critic:
        """Return the critic.

        Raises:
            ConfigurationError: There is none.
        """
        if self._critic is None:
            raise ConfigurationError("there is no critic here: give TorchConfig.critic")
        return self._critic

    def _parameters(self) -> dict[str, Tensor]:
        """Return every part of the policy that is trained, by name."""
        found: dict[str, Tensor] = {}
        for optimizer in self.optimizers.values():
            found |= optimizer.parameters()
        return found

    def _check_adapter(self, adapter: str) -> None:
        if adapter not in self.config.adapters:
            known = ", ".join(self.config.adapters)
            raise ConfigurationError(f"no adapter {adapter!r} is trained here; there are: {known}")

    @property
    def optimizer(self) -> Optimizer:
        """Return the first adapter's optimiser, or that of the whole model."""
        return next(iter(self.optimizers.values()))

    @property
    def step_config(self) -> StepConfig:
        """Return how steps are carried out."""
        return self._step

    @property
    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities(
            losses=frozenset(loss_names()),
            lora=self.config.lora is not None,
            prefix_packing=self._step.layout == "tree",
            reference=self.config.lora is not None or self._load_reference is not None,
            adapters=self.config.adapters,
            critic=self._critic is not None,
            dtype=str(next(self.model.parameters()).dtype).removeprefix("torch."),
        )

    def logprobs(self, batch: RowBatch, adapter: str = ADAPTER) -> list[NDArray[np.float32]]:
        self._check_adapter(adapter)
        with using_adapter(self.model, adapter):
            return score_rows(self.model, batch, self._step)

    def reference_logprobs(self, batch: RowBatch) -> list[NDArray[np.float32]]:
        if self.config.lora is None:
            return score_rows(self._reference_model(), batch, self._step)
        with adapters_disabled(self.model):
            return score_rows(self.model, batch, self._step)

    def _reference_model(self) -> nn.Module:
        if self._reference is None:
            if self._load_reference is None:
                raise ConfigurationError(
                    "there is no reference model: train adapters, whose base is one, or give "
                    "load_reference"
                )
            self._reference = self._load_reference().eval().requires_grad_(False)
        return self._reference

    def _with_reference(self, batch: RowBatch, loss: LossSpec) -> RowBatch:
        """Fill in the reference's scores, where `loss` needs them and no adapter can be put off."""
        if self.config.lora is not None or not loss.kl_coef:
            return batch
        scores = self.reference_logprobs(batch)
        rows = tuple(replace(r, logp_ref=s) for r, s in zip(batch.rows, scores, strict=True))
        return replace(batch, rows=rows)

    def step(
        self,
        batch: RowBatch,
        loss: LossSpec,
        adapter: str = ADAPTER,
        *,
        version: int | None = None,
    ) -> dict[str, float]:
        self._check_adapter(adapter)
        with using_adapter(self.model, adapter):
            batch = self._with_reference(batch, loss)
            metrics = train_step(self.model, self.optimizers[adapter], batch, loss, self._step)
        return metrics if version is None else metrics | staleness(batch, version)

    def values(self, batch: RowBatch) -> list[NDArray[np.float32]]:
        return self.critic.values(batch)

    def step_critic(self, batch: RowBatch, loss: ValueLossSpec) -> dict[str, float]:
        return self.critic.learn(batch, loss)

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {"torch_rng": torch.get_rng_state()}
        if self._critic is not None:
            state["critic"] = self._critic.save(path)
        self._save_trained(path, state)
        (path / _META).write_text(json.dumps({"format": FORMAT, "lora": self._shape()}))

    def _save_trained(self, path: Path, state: dict[str, Any]) -> None:
        """Write the weights, and the optimisers' state beside `state`."""
        tensors = {name: t.detach().contiguous() for name, t in self._parameters().items()}
        save_file(tensors, path / WEIGHTS)
        optimizers = {name: each.state() for name, each in self.optimizers.items()}
        torch.save({"optimizers": optimizers, **state}, path / STATE)

    def _restore_trained(
        self, path: Path, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Take over what `_save_trained` wrote into the directory `path`."""
        del path
        for name, optimizer in self.optimizers.items():
            optimizer.load_parameters({key: tensors[key] for key in optimizer.names})
            optimizer.load_state(state["optimizers"][name])

    def _shape(self) -> dict[str, Any] | None:
        """Return what a checkpoint's adapters must have in common with this run's."""
        lora = self.config.lora
        if lora is None:
            return None
        return {"r": lora.r, "alpha": lora.alpha, "names": list(self.config.adapters)}

    def restore(self, path: Path) -> None:
        try:
            meta = json.loads((path / _META).read_text())
            tensors = load_file(path / WEIGHTS)
            state = torch.load(path / STATE, weights_only=True)
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"cannot read the checkpoint in {path}: {error}") from error
        self._check_meta(meta, path)
        want = {name: tuple(t.shape) for name, t in self._parameters().items()}
        if want != {name: tuple(t.shape) for name, t in tensors.items()}:
            raise CheckpointError(f"the checkpoint in {path} is of another model")
        self._restore_trained(path, tensors, state)
        if self._critic is not None:
            if "critic" not in state:
                raise CheckpointError(f"the checkpoint in {path} holds no critic, this run has one")
            self._critic.restore(path, state["critic"])
        torch.set_rng_state(state["torch_rng"])

    def _check_meta(self, meta: dict[str, Any], path: Path) -> None:
        if meta.get("format") != FORMAT:
            raise CheckpointError(
                f"the checkpoint in {path} has format {meta.get('format')}, this version reads "
                f"{FORMAT}; go on with the version that wrote it"
            )
        if meta["lora"] != self._shape():
            raise CheckpointError(
                f"the checkpoint in {path} has adapters {meta['lora']}, this run {self._shape()}; "
                "use the configuration it was written with"
            )

    def export(self, path: Path, *, merged: bool = False, adapter: str = ADAPTER) -> None:
        self._check_adapter(adapter)
        path.mkdir(parents=True, exist_ok=True)
        if self.config.lora is None or merged:
            export_merged(cast("Any", self.model), path, adapter)
        else:
            export_adapter(cast("Any", self.model), path, adapter)

    def close(self) -> None:
        """End what the backend started; idempotent. One that started nothing goes on working."""
