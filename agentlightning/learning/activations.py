"""What a forward pass keeps for the way back: how much it is, and how to keep less of it.

Memory of a training step is the model plus activations, which grow with the slots of a pass. Both
are measured, not guessed, so any decoder of transformers fits; a pass that would exceed its share
computes each layer again on the way back and keeps only what goes between layers.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["kept_bytes", "recomputing_layers"]


def kept_bytes(model: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps after `run`, the model's own parameters left out.

    Args:
        model: The model that `run` calls, with what is trained already set.
        run: A forward pass; its result is thrown away.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = run()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total


@contextmanager
def recomputing_layers(
    decoder: Any, context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Generator[None]:
    """Let the decoder's layers forget what they computed, for forward passes within the block.

    The way back may be outside of the block, and in another thread.

    Args:
        decoder: A decoder with its layers in `layers`; one without them is left alone.
        context: What a layer needs around it when it is computed again.
    """
    layers: list[Any] = list(getattr(decoder, "layers", ()))
    for layer in layers:
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            # Nothing is random: models are trained in evaluation mode.
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), context()),
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
