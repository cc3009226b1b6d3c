"""Activations: they are counted as they are, and recomputing keeps less and changes nothing."""

import pytest
import torch

from agentlightning.learning.activations import kept_bytes, recomputing_layers
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend
from agentlightning.learning.forward import activation_bytes
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.optimizer import AdamWConfig, Optimizer
from agentlightning.learning.step import StepConfig, train_step
from tests.learning.tiny import batch_of, random_rows, tiny_llama

IDS = torch.arange(1, 33)[None]


def test_bytes_are_those_that_autograd_keeps():
    """Inputs that a product keeps count once, parameters never."""
    layer = torch.nn.Linear(8, 8, bias=False)
    x = torch.ones(4, 8)
    assert kept_bytes(layer, lambda: layer(x)) == 4 * 8 * 4
    assert kept_bytes(layer, lambda: layer(x) + layer(x)) == 4 * 8 * 4
    layer.requires_grad_(False)
    assert kept_bytes(layer, lambda: layer(x)) == 0


def test_recomputing_keeps_a_small_part():
    """With recomputation a pass keeps little more than what goes between layers."""
    model = tiny_llama()
    decoder = model.get_decoder()

    def run():
        return decoder(input_ids=IDS, use_cache=False).last_hidden_state

    whole = kept_bytes(model, run)
    with recomputing_layers(decoder):
        assert kept_bytes(model, run) < whole / 4
    assert kept_bytes(model, run) == whole


def gradients(layout, recompute_above):
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=1e-2))
    config = StepConfig(layout=layout, recompute_above=recompute_above)
    train_step(model, optimizer, batch_of(random_rows()), LossSpec(), config)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_recomputing_changes_no_update(layout):
    """The weights after a step are the same bits, in both layouts."""
    for plain, again in zip(gradients(layout, None), gradients(layout, 0), strict=True):
        assert torch.equal(plain, again)


def test_the_memory_for_activations_decides_how_passes_are_cut():
    """A backend cuts passes to its budget and recomputes longer rows; results stay the same."""
    model = tiny_llama()
    each = activation_bytes(model, "tree")
    config = TorchConfig(lora=LoraConfig(r=4), lr=1e-2)
    little = TorchConfig(lora=LoraConfig(r=4), lr=1e-2, activation_bytes=int(8 * each))
    wide = TorchTrainBackend(tiny_llama(), config=config)
    narrow = TorchTrainBackend(tiny_llama(), config=little)
    batch = batch_of(random_rows())
    first, second = (one.step(batch, LossSpec()) for one in (wide, narrow))
    assert second["training/packing_ratio"] < first["training/packing_ratio"]
    assert second["training/grad_norm"] == pytest.approx(first["training/grad_norm"], rel=1e-4)
