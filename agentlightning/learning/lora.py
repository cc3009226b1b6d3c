"""Low-rank adapters: injected by peft, computed by one fused operation.

The adapters keep fp32 parameters over a frozen base of any dtype and are used unmerged, both for
sampling and for training, so that the two agree on every log-probability. peft owns
configuration, names and file formats; only the arithmetic of a plain linear layer is ours.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from agentlightning.errors import ConfigurationError

__all__ = ["ADAPTER", "LoraConfig", "adapters_disabled", "inject_lora"]

ADAPTER = "default"
"""The adapter's name within the model, peft's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Shape of the adapters. Dropout is not offered: sampling and training must agree."""

    r: int = 16
    alpha: float = 32.0
    """The adapter's output is scaled by `alpha / r`."""

    targets: str | tuple[str, ...] = "all-linear"
    """Module names, or every linear layer but the output head."""


class _LoraLinear(torch.autograd.Function):
    """`x W^T + b + s (x A^T) B^T`, keeping `x` and the rank-`r` product for the way back.

    Perf: composed of single operations in fp32, the adapters of a 135M bf16 model cost more than
    the model itself; in one operation and in the model's dtype they cost a fifth of it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        A_RI, B_OR = down.to(x.dtype), up.to(x.dtype)
        x_NI = x.reshape(-1, x.shape[-1])
        h_NR = x_NI @ A_RI.T
        y_NO = functional.linear(x_NI, weight, bias).addmm_(h_NR, B_OR.T, alpha=scale)
        ctx.save_for_backward(x_NI, h_NR, weight, A_RI, B_OR)
        ctx.scale = scale
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]  # the base is untyped
        x_NI, h_NR, weight, A_RI, B_OR = ctx.saved_tensors
        g_NO = grad.reshape(-1, grad.shape[-1])
        gh_NR = (g_NO @ B_OR) * ctx.scale
        dA = (gh_NR.T @ x_NI).float()
        dB = (g_NO.T @ h_NR).float() * ctx.scale
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g_NO @ weight).addmm_(gh_NR, A_RI).view(*grad.shape[:-1], -1)
        return dx, None, None, dA, dB, None


class FusedLoraLinear(PeftLinear):
    """peft's LoRA layer over `nn.Linear`, with a fused forward for the ordinary case."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = self.get_base_layer()
        ordinary = (
            not (args or kwargs or self.disable_adapters or self.merged)
            and self.active_adapters == [ADAPTER]
            and not base.weight.requires_grad
            and x.dtype == base.weight.dtype
        )
        if not ordinary:
            return super().forward(x, *args, **kwargs)
        down, up = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        return _LoraLinear.apply(x, base.weight, base.bias, down, up, self.scaling[ADAPTER])  # pyright: ignore[reportReturnType]  # apply is untyped


def inject_lora(model: nn.Module, spec: LoraConfig) -> None:
    """Freeze `model` and put adapters into it, in place. They start as the identity.

    Raises:
        ConfigurationError: The model has adapters already, or none of its layers matches.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ConfigurationError("the model already has adapters; load it afresh")
    model.requires_grad_(False)
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = peft.LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]  # peft divides only
        target_modules=targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({nn.Linear: FusedLoraLinear})  # noqa: SLF001 - peft's documented hook has this name
    try:
        peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigurationError(f"cannot inject LoRA with targets {targets!r}: {error}") from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def adapters_disabled(model: nn.Module) -> Generator[None]:
    """Run the base model: the free reference policy. Not safe while another thread samples."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
