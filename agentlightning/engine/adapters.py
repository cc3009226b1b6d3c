"""Low-rank adapters inside one module: which there are, loading one, and computing with one.

peft owns the layers and the file format. Training adapters, and making new ones, is `learning`'s
work; several adapters of one batch are computed together by `lora_stack`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from agentlightning.errors import ConfigurationError, MissingExtraError

__all__ = [
    "BASE",
    "DEFAULT_ADAPTER",
    "activate_adapter",
    "adapter_layers",
    "adapter_names",
    "load_adapter",
]

DEFAULT_ADAPTER = "default"
"""What requests that name no adapter are sampled with, if the model has it; peft's own default."""

BASE = ""
"""What requests name to be sampled with the base model although it has a default adapter."""


def adapter_layers(model: Any) -> list[Any]:
    """Return the layers with LoRA adapters; empty without any, and without peft."""
    # Why: a model without adapters needs no peft, whose import takes seconds.
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def adapter_names(model: Any) -> frozenset[str]:
    """Return the names of all LoRA adapters in `model`."""
    names: set[str] = set()
    for layer in adapter_layers(model):
        names.update(getattr(layer, "lora_A", ()))
    return frozenset(names)


def activate_adapter(model: Any, name: str | None) -> None:
    """Compute with one adapter from now on, or with the base alone (None).

    Which parameters can be trained stays as it is. Not safe while another thread runs the model.
    """
    for layer in adapter_layers(model):
        layer._disable_adapters = name is None  # noqa: SLF001 - peft's setter also freezes parameters
        layer._active_adapter = [] if name is None else [name]  # noqa: SLF001 - as above


def load_adapter(model: Any, name: str, path: str | Path) -> None:
    """Put a LoRA adapter from a directory into `model`, beside those that are there; it is frozen.

    Args:
        model: The model that the adapter was made for.
        name: Name to call it by from now on, without dots.
        path: Directory with `adapter_config.json` and its weights, as peft writes it.

    Raises:
        ConfigurationError: The directory holds no LoRA adapter, the adapter is for another model,
            or the name is taken or holds a dot.
        MissingExtraError: peft is not installed.
    """
    try:
        import peft
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise MissingExtraError(error.name or "peft", "rl") from error
    if not name or "." in name or name in adapter_names(model):
        raise ConfigurationError(f"adapter name {name!r} is taken, empty or holds a dot")
    directory = Path(path).expanduser()
    if not (directory / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"{directory} holds no adapter_config.json; give a directory in peft's format",
        )
    config: Any = peft.PeftConfig.from_pretrained(str(directory))
    if config.peft_type != peft.PeftType.LORA:
        raise ConfigurationError(f"{directory} is an adapter of type {config.peft_type}, not LoRA")
    config.inference_mode = True
    weight = next(model.parameters())
    weights = load_peft_weights(str(directory), device="cpu")
    with warnings.catch_warnings():
        # peft warns of a second adapter, which is what was asked for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        try:
            peft.inject_adapter_in_model(config, model, adapter_name=name)
            unknown = peft.set_peft_model_state_dict(model, weights, adapter_name=name)
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(f"{directory} does not fit this model: {error}") from error
    if unknown.unexpected_keys:
        raise ConfigurationError(
            f"{directory} is for another model: {unknown.unexpected_keys[0]} is no part of this one"
        )
    for layer in adapter_layers(model):
        for part in (layer.lora_A, layer.lora_B):
            if name in part:
                # fp32, as trained: its rounding to the model's own format is the same as then.
                part[name].to(device=weight.device).float().requires_grad_(False)
