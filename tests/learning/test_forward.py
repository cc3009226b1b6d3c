"""Packed forward passes give what each row gives alone."""

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, MistralConfig, MistralForCausalLM

from agentlightning.errors import ConfigurationError
from agentlightning.learning.forward import check_head, choose_layout, score_pack
from agentlightning.learning.packing import pack_rows
from tests.learning.tiny import plain_logp, random_rows, row, tiny_llama


def packed_logps(model, rows, *, layout="tree", max_slots=1000, temperature=1.0):
    packs = pack_rows(rows, max_slots=max_slots, share=layout == "tree")
    found = {}
    for pack in packs:
        scores = score_pack(model, pack, layout=layout, temperature=temperature).logp
        parts = scores[pack.token_pair].split([r.n_trained for r in pack.rows])
        found |= {id(r): part for r, part in zip(pack.rows, parts, strict=True)}
    return [found[id(r)] for r in rows]


@pytest.mark.parametrize(("layout", "max_slots"), [("tree", 1000), ("tree", 40), ("rows", 60)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_logprobs_equal_those_of_each_row_alone(layout, max_slots, temperature):
    """Packing changes no log-probability beyond 1e-5 in fp32, at any budget and temperature."""
    model, rows = tiny_llama(), random_rows()
    rows.append(row(rows[0].ids, [3, 4, 19]))
    with torch.no_grad():
        packed = packed_logps(
            model, rows, layout=layout, max_slots=max_slots, temperature=temperature
        )
        for one, got in zip(rows, packed, strict=True):
            assert torch.allclose(got, plain_logp(model, one, temperature), atol=1e-5)


def test_greedy_rollouts_are_scored_at_temperature_one():
    """Temperature 0 counts as 1."""
    model, rows = tiny_llama(), random_rows()[:1]
    with torch.no_grad():
        (got,) = packed_logps(model, rows, temperature=0.0)
        assert torch.allclose(got, plain_logp(model, rows[0]), atol=1e-5)


@pytest.mark.parametrize("layout", ["tree", "rows"])
@pytest.mark.parametrize("frozen_head", [True, False])
def test_packed_gradients_equal_those_of_each_row_alone(layout, frozen_head):
    """The gradient of any weighted sum of scores is the same packed and alone."""
    model, rows = tiny_llama(), random_rows()
    model.lm_head.requires_grad_(requires_grad=not frozen_head)

    def gradient(logps):
        model.zero_grad()
        sum(
            (logp * float(one.adv.sum())).sum() for one, logp in zip(rows, logps, strict=True)
        ).backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    alone = gradient([plain_logp(model, one) for one in rows])
    for got, want in zip(gradient(packed_logps(model, rows, layout=layout)), alone, strict=True):
        assert (got - want).norm() < 1e-5 * want.norm()


def test_entropy_is_that_of_the_distribution():
    """Entropies are exact, and carry a gradient only when asked."""
    model, (one,) = tiny_llama(), random_rows()[:1]
    (pack,) = pack_rows([one], max_slots=100)
    logits = model(torch.from_numpy(one.ids.astype("int64"))[None]).logits[0][pack.head_slot]
    want = torch.distributions.Categorical(logits=logits).entropy()
    plain = score_pack(model, pack, layout="tree", entropy=True).entropy
    model.lm_head.requires_grad_(requires_grad=False)
    frozen = score_pack(model, pack, layout="tree", entropy=True).entropy
    active = score_pack(model, pack, layout="tree", entropy=True, entropy_gradient=True).entropy
    for got in (plain, frozen, active):
        assert torch.allclose(got, want, atol=1e-4)
    assert not frozen.requires_grad
    assert active.requires_grad


def small(config_class, model_class, **fields):
    torch.manual_seed(0)
    config = config_class(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
        **fields,
    )
    return model_class(config).eval()


def test_the_layout_follows_the_models_attention():
    """Plain causal attention gets the tree; a sliding window gets ordinary rows."""
    assert choose_layout(tiny_llama()) == "tree"
    assert choose_layout(tiny_llama(dtype=torch.bfloat16)) == "tree"
    windowed = small(MistralConfig, MistralForCausalLM, sliding_window=8)
    assert choose_layout(windowed) == "rows"


def test_models_that_scale_their_logits_are_refused():
    """Scores that would differ from the model's own logits raise before any training."""
    check_head(tiny_llama())
    with pytest.raises(ConfigurationError, match="does not support"):
        check_head(small(GraniteConfig, GraniteForCausalLM, logits_scaling=8.0))
