"""Writing trained weights for others to load: peft adapters, or a whole transformers model."""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import save_file

from agentlightning.learning.lora import ADAPTER

__all__ = ["export_adapter", "export_merged"]


def export_adapter(model: Any, path: Path, adapter: str = ADAPTER) -> None:
    """Write one adapter as a directory that `PeftModel.from_pretrained` and vLLM read."""
    tensors = get_peft_model_state_dict(model, adapter_name=adapter)
    named = {f"base_model.model.{name}": t.detach().contiguous() for name, t in tensors.items()}
    save_file(named, path / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config[adapter].save_pretrained(str(path))


def export_merged(model: Any, path: Path, adapter: str = ADAPTER) -> None:
    """Write a model without adapters, one's added to its weights; `model` is left as it is."""
    tensors: dict[str, torch.Tensor] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}
    for name, tensor in model.state_dict().items():
        owner, _, rest = name.partition(".base_layer.")
        if owner in layers and rest == "weight":
            layer = layers[owner]
            delta = layer.get_delta_weight(adapter)
            tensors[f"{owner}.weight"] = (tensor.float() + delta.float()).to(tensor.dtype)
        elif rest:
            tensors[f"{owner}.{rest}"] = tensor
        elif ".lora_" not in name:
            tensors[name] = tensor
    model.save_pretrained(str(path), state_dict=tensors)
