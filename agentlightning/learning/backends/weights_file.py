"""Weights in a file that several processes have mapped into their memory."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["WeightsFile"]

ALIGNMENT = 64


class WeightsFile:
    """Named tensors as bytes of one file. A file, because shared memory is small in containers.

    Who writes and who reads at which time is for the processes to agree upon.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Map the file, made if there is none.

        Args:
            path: The file.
            tensors: What `read` fills and `write` takes; names, shapes and number formats are the
                same in all processes, their order need not be.
        """
        self._tensors = dict(tensors)
        starts, end = dict[str, int](), 0
        for name, tensor in sorted(tensors.items()):
            starts[name] = end
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        whole = torch.from_file(str(path), shared=True, size=end, dtype=torch.uint8)
        self._stored = {
            name: whole[start : start + tensors[name].nbytes]
            .view(tensors[name].dtype)
            .view(tensors[name].shape)
            for name, start in starts.items()
        }

    def put(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        self._stored[name].copy_(tensor.detach())

    def write(self) -> None:
        """Write all tensors."""
        for name, tensor in self._tensors.items():
            self.put(name, tensor)

    @torch.no_grad()
    def read(self) -> None:
        """Read all tensors, in place."""
        for name, tensor in self._tensors.items():
            tensor.copy_(self._stored[name])
