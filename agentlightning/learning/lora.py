"""Low-rank adapters: injected by peft, computed by one fused operation.

The adapters keep fp32 parameters over a frozen base of any dtype and are used unmerged, both for
sampling and for training, so that the two agree on every log-probability. peft owns
configuration, names and file formats; only the arithmetic of a plain linear layer is ours.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from agentlightning.errors import ConfigurationError

__all__ = [
    "ADAPTER",
    "LoraConfig",
    "activate_adapter",
    "adapter_parameters",
    "adapters_disabled",
    "inject_lora",
    "using_adapter",
]

ADAPTER = "default"
"""Name of the adapter where there is a single one, peft's own default."""


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
        base, active = self.get_base_layer(), self.active_adapters
        ordinary = (
            not (args or kwargs or self.disable_adapters or self.merged)
            and len(active) == 1
            and active[0] in self.lora_A
            and not base.weight.requires_grad
            and x.dtype == base.weight.dtype
        )
        if not ordinary:
            return super().forward(x, *args, **kwargs)
        name = active[0]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        return _LoraLinear.apply(x, base.weight, base.bias, down, up, self.scaling[name])  # pyright: ignore[reportReturnType]  # apply is untyped


def inject_lora(model: nn.Module, spec: LoraConfig, names: Sequence[str] = (ADAPTER,)) -> None:
    """Freeze `model` and put adapters into it, in place. They start as the identity.

    Args:
        model: The model, without adapters.
        spec: The shape of each adapter.
        names: The adapters; the first one is active afterwards, all of them can be trained.

    Raises:
        ConfigurationError: The model has adapters already, none of its layers matches, or names
            are missing, repeated or hold a dot.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ConfigurationError("the model already has adapters; load it afresh")
    if not names or len(set(names)) < len(names) or any("." in name or not name for name in names):
        raise ConfigurationError(f"adapters {tuple(names)!r}: give different names without dots")
    model.requires_grad_(False)
    for name in names:
        _inject(model, spec, name)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
        # Why: peft lets only the adapter that was injected last be trained.
        parameter.requires_grad_(True)
    activate_adapter(model, names[0])


def _inject(model: nn.Module, spec: LoraConfig, name: str) -> None:
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = peft.LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]  # peft divides only
        target_modules=targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    config._register_custom_module({nn.Linear: FusedLoraLinear})  # noqa: SLF001 - peft's documented hook has this name
    with warnings.catch_warnings():
        # peft warns of a second adapter, which is what was asked for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            peft.inject_adapter_in_model(config, model, adapter_name=name)
        except ValueError as error:
            raise ConfigurationError(
                f"cannot inject LoRA with targets {targets!r}: {error}"
            ) from error


def adapter_parameters(model: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """Return the adapters' parameters by name: of all adapters, or of one."""
    mark = ".lora_" if name is None else f".{name}."
    return {
        key: parameter
        for key, parameter in model.named_parameters()
        if ".lora_" in key and mark in key[key.index(".lora_") :]
    }


def _layers(model: nn.Module) -> list[BaseTunerLayer]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def activate_adapter(model: nn.Module, name: str | None) -> None:
    """Compute with one adapter from now on, or with the base alone (None).

    Unlike peft's own switch it leaves alone which parameters can be trained, so that optimisers
    of several adapters live side by side. Costs about a millisecond for 210 layers. Not safe
    while another thread runs the model.
    """
    for layer in _layers(model):
        layer._disable_adapters = name is None  # noqa: SLF001 - peft's setter also freezes parameters
        if name is not None:
            layer._active_adapter = [name]  # noqa: SLF001 - as above


@contextmanager
def using_adapter(model: nn.Module, name: str | None) -> Generator[None]:
    """Compute with one adapter, or with the base alone (None), for the length of the block.

    A model without adapters is left alone. Not safe while another thread runs the model.
    """
    layers = _layers(model)
    before = [(layer.active_adapters, layer.disable_adapters) for layer in layers]
    activate_adapter(model, name)
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled  # noqa: SLF001 - as above


def adapters_disabled(model: nn.Module) -> AbstractContextManager[None]:
    """Run the base model: the free reference policy. Not safe while another thread samples."""
    return using_adapter(model, None)
