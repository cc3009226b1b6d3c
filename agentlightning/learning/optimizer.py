"""AdamW over the trained parameters, with fp32 master copies where the model is in half precision.

An update at a learning rate of 1e-6 is far below what bf16 can resolve, so half-precision
parameters are rounded from an fp32 copy after each step and never accumulate in place.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentlightning.errors import ConfigurationError, NonFiniteLossError
from agentlightning.learning.lora import adapter_parameters

__all__ = ["AdamWConfig", "Optimizer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig:
    """Hyperparameters of the update."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    """Largest norm of the whole gradient; None leaves it as it is."""

    warmup_steps: int = 0
    """Updates over which the learning rate rises linearly to `lr`; constant afterwards."""


class Optimizer:
    """Clips, steps and rounds. Not thread-safe: the caller keeps samplers out."""

    def __init__(
        self, model: nn.Module, config: AdamWConfig, *, adapter: str | None = None
    ) -> None:
        """Take over the parameters of `model` that require a gradient, or those of one adapter."""
        mine = model.named_parameters()
        if adapter is not None:
            mine = adapter_parameters(model, adapter).items()
        named = [(name, p) for name, p in mine if p.requires_grad]
        if not named:
            raise ConfigurationError("the model has no parameter that requires a gradient")
        self.config = config
        self.names = [name for name, _ in named]
        self._parameters = [p for _, p in named]
        self._masters = [
            p if p.dtype == torch.float32 else p.detach().float() for p in self._parameters
        ]
        self._adamw = torch.optim.AdamW(
            self._masters,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
        self.updates = 0

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        warm = self.config.warmup_steps
        return self.config.lr * min(1.0, (self.updates + 1) / warm) if warm else self.config.lr

    def zero_grad(self) -> None:
        """Forget the gradient."""
        for parameter in self._parameters:
            parameter.grad = None

    def update(self) -> float:
        """Apply the accumulated gradient, then forget it.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            NonFiniteLossError: The gradient is NaN or infinite; parameters are left as they were.
        """
        gradients = [p.grad.float() for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            bad = [
                name
                for name, p in zip(self.names, self._parameters, strict=True)
                if p.grad is not None and not torch.isfinite(p.grad).all()
            ]
            self.zero_grad()
            raise NonFiniteLossError(
                f"the gradient of {len(bad)} parameters is not finite, first {bad[:3]}; nothing "
                "was updated. Lower the learning rate or look for extreme advantages"
            )
        clip = self.config.grad_clip
        scale = 1.0 if clip is None else min(1.0, clip / (float(norm) + 1e-6))
        self._apply(scale)
        self.zero_grad()
        self.updates += 1
        return float(norm)

    def _apply(self, scale: float) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            grad = parameter.grad
            master.grad = None if grad is None else grad.float() * scale
        for group in self._adamw.param_groups:
            group["lr"] = self.lr
        self._adamw.step()
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
                    master.grad = None

    def state(self) -> dict[str, Any]:
        """Return what `load_state` needs to go on exactly, as tensors and plain values."""
        return {"adamw": self._adamw.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._adamw.load_state_dict(state["adamw"])
        self.updates = int(state["updates"])

    def parameters(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, in fp32 where a master copy exists."""
        return dict(zip(self.names, self._masters, strict=True))

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Set masters and model parameters from `tensors`.

        Raises:
            ConfigurationError: Names or shapes are not those of this model.
        """
        have = {name: tuple(t.shape) for name, t in tensors.items()}
        want = {name: tuple(t.shape) for name, t in self.parameters().items()}
        if have != want:
            odd = sorted(set(have.items()) ^ set(want.items()))[:3]
            raise ConfigurationError(f"parameters do not fit this model, first differences: {odd}")
        with torch.no_grad():
            for name, parameter, master in zip(
                self.names, self._parameters, self._masters, strict=True
            ):
                master.copy_(tensors[name])
                parameter.copy_(master)
