"""AdamW over the trained parameters, with fp32 master copies where the model is in half precision.

An update at a learning rate of 1e-6 is far below what bf16 can resolve, so half-precision
parameters are rounded from an fp32 copy after each step and never accumulate in place. A gradient
that is not finite, or out of all proportion to those before, is refused and never applied.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentlightning.errors import ConfigurationError, ExplodingGradientError, NonFiniteLossError
from agentlightning.learning.lora import adapter_parameters

__all__ = ["AdamWConfig", "Optimizer"]

MEDIAN_OVER, MEDIAN_FROM = 32, 8
"""Updates whose norms the median is taken of, and how many it takes to have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig:
    """Hyperparameters of the update."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0
    """Largest norm of the whole gradient; None leaves it as it is."""

    grad_norm_limit: float | None = None
    """Norm of the whole gradient, before clipping, beyond which nothing is updated."""

    grad_norm_spike: float | None = 1000.0
    """The same as a multiple of the running median, once that is known, where there is no
    `grad_norm_limit`. A norm that `grad_clip` cuts by less than ten times never counts as a spike."""

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
        self._norms: deque[float] = deque(maxlen=MEDIAN_OVER)
        self.reduce: Callable[[Tensor], None] | None = None
        """Sums a vector over all processes that train, in place; None where there is only one."""

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
            NonFiniteLossError: The gradient is NaN or infinite, and parameters are left as they
                were; or the update made parameters so, and they are lost.
            ExplodingGradientError: It is larger than allowed; parameters are left as they were.
        """
        self._sum_over_processes()
        gradients = [p.grad.float() for p in self._parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        try:
            self._check(norm)
            clip = self.config.grad_clip
            self._apply(1.0 if clip is None else min(1.0, clip / (norm + 1e-6)))
            self._check_updated()
        finally:
            self.zero_grad()
        self.updates += 1
        self._norms.append(norm)
        return norm

    def abandon(self) -> None:
        """Give up this process's part, so that no process applies the update or waits for it."""
        if self.reduce is not None:
            for parameter in self._parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
            self._sum_over_processes()
        self.zero_grad()

    def _sum_over_processes(self) -> None:
        if self.reduce is None:
            return
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [p.grad for p in self._parameters if p.grad is not None]
        # Why one fp32 vector: one message, and no rounding between processes.
        flat = torch.cat([grad.flatten().float() for grad in grads])
        self.reduce(flat)
        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def _check(self, norm: float) -> None:
        """Refuse a gradient that would do harm."""
        if not math.isfinite(norm):
            bad = [
                name
                for name, p in zip(self.names, self._parameters, strict=True)
                if p.grad is not None and not torch.isfinite(p.grad).all()
            ]
            raise NonFiniteLossError(
                f"the gradient of {len(bad)} parameters is not finite, first {bad[:3]}; nothing "
                f"was updated (update {self.updates + 1}, learning rate {self.lr:.3g}). Lower the "
                "learning rate or look for extreme advantages"
            )
        limit, why = self._norm_limit()
        if norm > limit:
            raise ExplodingGradientError(
                f"the gradient's norm is {norm:.3g}, more than {why}; nothing was updated (update "
                f"{self.updates + 1}, learning rate {self.lr:.3g}). Largest parts: "
                f"{self._largest()}. A run that is resumed meets this gradient again: a larger "
                "grad_norm_limit lets it pass, scaled down. Where earlier updates ruined the "
                "weights, begin anew with a lower learning rate"
            )

    @torch.no_grad()
    def _check_updated(self) -> None:
        """Make sure that what is sampled and saved from now on are numbers."""
        # Not of the masters: what is 70000 in fp32 is infinite in fp16.
        norms = [
            torch.linalg.vector_norm(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for p in self._parameters
        ]
        if not math.isfinite(float(torch.linalg.vector_norm(torch.stack(norms)))):
            raise NonFiniteLossError(
                "the update made parameters infinite, NaN or next to it (update "
                f"{self.updates + 1}, learning rate {self.lr:.3g}), so the weights in memory are "
                "lost. Go on from the last checkpoint with a lower learning rate"
            )

    def _norm_limit(self) -> tuple[float, str]:
        """Return the largest norm that is allowed, and in words where it comes from."""
        fixed, spike = self.config.grad_norm_limit, self.config.grad_norm_spike
        if fixed is not None:
            # Alone: a resumed run meets the same gradient again, and this is how to let it pass.
            return fixed, f"grad_norm_limit={fixed:g}"
        known = [norm for norm in self._norms if norm > 0]
        if spike is None or len(known) < MEDIAN_FROM:
            return math.inf, ""
        median = statistics.median(known)
        floor = 10 * (self.config.grad_clip or 0.0)
        return max(spike * median, floor), f"{spike:g} times the median of {median:.3g}"

    def _largest(self) -> str:
        """Name the parameters with the largest gradients."""
        norms = [
            (float(p.grad.float().norm()), name)
            for name, p in zip(self.names, self._parameters, strict=True)
            if p.grad is not None
        ]
        return ", ".join(f"{name} {norm:.3g}" for norm, name in sorted(norms, reverse=True)[:3])

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
        return {
            "adamw": self._adamw.state_dict(),
            "updates": self.updates,
            "norms": list(self._norms),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._adamw.load_state_dict(state["adamw"])
        self.updates = int(state["updates"])
        self._norms = deque(state["norms"], maxlen=MEDIAN_OVER)

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
