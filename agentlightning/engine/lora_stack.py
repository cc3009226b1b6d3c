"""The adapters of linear layers that share an input, as two matrices for a whole batch.

Rows of one batch may be sampled with different adapters: all of them are computed for every row,
and a gate keeps what each row asked for. Adapters stay unmerged, so that sampling and training
agree. Shapes: N token, I input, O output, C column (rank by rank of all adapters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["AdapterGate", "LoraStack", "stackable"]


@dataclass(frozen=True, slots=True)
class AdapterGate:
    """Which adapters a batch needs, and which token needs which."""

    names: tuple[str, ...]
    """Sorted; empty where every row is sampled with the base."""
    open: Tensor | None
    """1 where a token uses an adapter, else 0; None where all tokens use the only one."""

    @classmethod
    def of_rows(cls, rows: Sequence[str | None], width: int, weight: Tensor) -> AdapterGate:
        """Return the gate of a batch.

        Args:
            rows: Adapter of each row; None is the base.
            width: Tokens per row.
            weight: Any weight, for device and dtype.
        """
        names = tuple(sorted({name for name in rows if name is not None}))
        if not names or (len(names) == 1 and None not in rows):
            return cls(names, None)
        flags = [[float(row == name) for name in names] for row in rows]
        open_rows = torch.tensor(flags, dtype=weight.dtype, device=weight.device)
        return cls(names, open_rows.repeat_interleave(width, dim=0))


class LoraStack:
    """The adapters `names` of some layers, copied in the model's dtype; not thread-safe."""

    def __init__(self, layers: Sequence[Any], names: Sequence[str]) -> None:
        """Copy the adapters' weights as they are now.

        Args:
            layers: Linear layers over one input, with or without adapters.
            names: Adapters; a layer may lack any of them.
        """
        downs: list[Tensor] = []
        owners: list[int] = []
        self._ups: list[tuple[slice, Tensor] | None] = []
        for layer in layers:
            start, ups = len(owners), []
            for index, name in enumerate(names):
                if name not in getattr(layer, "lora_A", ()):
                    continue
                weight = layer.get_base_layer().weight
                down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
                downs.append(down.detach().to(weight))
                ups.append((up.detach() * layer.scaling[name]).to(weight))
                owners += [index] * down.shape[0]
            self._ups.append((slice(start, len(owners)), torch.cat(ups, 1).T) if ups else None)
        self._down = torch.cat(downs).T if downs else None
        self._owner = torch.tensor(owners, device=downs[0].device if downs else None)

    def add(self, x: Tensor, outputs: Sequence[Tensor], gate: AdapterGate) -> None:
        """Add what the adapters make of `x` to the layers' outputs [N, O], in place."""
        if self._down is None:
            return
        low = x @ self._down
        if gate.open is not None:
            low.mul_(gate.open[:, self._owner])
        for output, up in zip(outputs, self._ups, strict=True):
            if up is not None:
                columns, matrix = up
                output.addmm_(low[:, columns], matrix)


def stackable(layer: Any) -> bool:
    """Tell whether a layer is a plain linear one, with ordinary LoRA adapters at most."""
    base = layer
    if hasattr(layer, "get_base_layer"):
        base = layer.get_base_layer()
        parts = [*getattr(layer, "lora_B", {}).values()]
        if (
            not hasattr(layer, "lora_A")
            or getattr(layer, "lora_variant", None)
            or getattr(layer, "fan_in_fan_out", False)
            or layer.merged
            or any(part.bias is not None for part in parts)
        ):
            return False
    return type(base) is torch.nn.Linear and not base._forward_hooks  # noqa: SLF001 - torch tells of hooks nowhere else
