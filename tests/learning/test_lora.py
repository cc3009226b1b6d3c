"""Adapters: the fused layer computes what peft's own does."""

import copy

import peft
import pytest
import torch

from agentlightning.errors import ConfigurationError
from agentlightning.learning.lora import (
    LoraConfig,
    adapter_parameters,
    adapters_disabled,
    inject_lora,
    using_adapter,
)
from tests.learning.tiny import tiny_llama

IDS = torch.arange(1, 13).view(2, 6)


def adapted(model):
    inject_lora(model, LoraConfig(r=4, alpha=12.0))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def by_peft(model):
    """The same adapters in peft's own layers."""
    twin = tiny_llama()
    config = peft.LoraConfig(
        r=4, lora_alpha=12.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    peft.inject_adapter_in_model(config, twin)
    twin.load_state_dict(model.state_dict())
    return twin


def test_adapters_start_as_the_identity_and_keep_the_model_object():
    """Injection changes no output, freezes the base, and leaves fp32 adapters in a bf16 model."""
    model = tiny_llama(dtype=torch.bfloat16)
    before = model(IDS).logits
    inject_lora(model, LoraConfig())
    assert torch.equal(model(IDS).logits, before)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert not any("lm_head" in name for name in trained)


def test_outputs_and_gradients_equal_those_of_peft():
    """The fused operation has peft's values and gradients in fp32."""
    model = adapted(tiny_llama())
    twin = by_peft(model)
    for one in (model, twin):
        one(IDS).logits.square().mean().backward()
    assert torch.allclose(model(IDS).logits, twin(IDS).logits, atol=1e-5)
    want = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, want[name].grad, atol=1e-6, rtol=1e-4), name


def test_half_precision_stays_close_to_full_precision():
    """In bf16 the adapters' gradients point the same way as in fp32."""
    exact = adapted(tiny_llama())
    half = copy.deepcopy(exact)
    for module in half.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.requires_grad:
                module._parameters[name] = torch.nn.Parameter(parameter.bfloat16(), False)
    for one in (exact, half):
        one(IDS).logits.float().log_softmax(-1)[..., 3].sum().backward()
    grads = [
        torch.cat([p.grad.flatten() for p in one.parameters() if p.requires_grad])
        for one in (exact, half)
    ]
    assert torch.cosine_similarity(*grads, dim=0) > 0.99


def test_disabling_adapters_gives_the_base_model():
    """Within the context the model is the base; afterwards the adapters are back."""
    base, model = tiny_llama(), adapted(tiny_llama())
    with torch.no_grad():
        changed = model(IDS).logits
        with adapters_disabled(model):
            assert torch.allclose(model(IDS).logits, base(IDS).logits, atol=1e-6)
        assert torch.equal(model(IDS).logits, changed)


def test_wrong_targets_and_second_injections_are_refused():
    """Names that match nothing, and models that have adapters, raise."""
    with pytest.raises(ConfigurationError, match="no_such"):
        inject_lora(tiny_llama(), LoraConfig(targets=("no_such",)))
    with pytest.raises(ConfigurationError, match="already"):
        inject_lora(adapted(tiny_llama()), LoraConfig())


def pair():
    """A model with adapters `left` and `right`, both away from the identity."""
    model = tiny_llama()
    inject_lora(model, LoraConfig(r=4, alpha=12.0), ("left", "right"))
    torch.manual_seed(2)
    for parameter in adapter_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_each_of_several_adapters_computes_as_if_alone():
    """With one of two adapters active, values and gradients are those of a model with it alone."""
    model = pair()
    for name in ("right", "left"):
        alone = tiny_llama()
        inject_lora(alone, LoraConfig(r=4, alpha=12.0), (name,))
        alone.load_state_dict(model.state_dict(), strict=False)
        with using_adapter(model, name):
            found = model(IDS).logits
            found.square().mean().backward()
        alone(IDS).logits.square().mean().backward()
        assert torch.equal(found, alone(IDS).logits)
        want = adapter_parameters(alone)
        assert want.keys() == adapter_parameters(model, name).keys()
        for key, parameter in adapter_parameters(model, name).items():
            assert torch.equal(parameter.grad, want[key].grad), key


def test_switching_adapters_leaves_all_of_them_trainable():
    """Whatever was active, every adapter requires a gradient and the base does not."""
    model = pair()
    with using_adapter(model, "right"), adapters_disabled(model):
        pass
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(
        adapter_parameters(model)
    )
    with using_adapter(model, "right"):
        right = model(IDS).logits
    assert not torch.equal(model(IDS).logits, right)


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a.b",), ("",)])
def test_adapter_names_must_be_usable(names):
    """No names, repeated names and names with dots are refused before the model is touched."""
    model = tiny_llama()
    with pytest.raises(ConfigurationError, match="adapters"):
        inject_lora(model, LoraConfig(), names)
    assert not adapter_parameters(model)
