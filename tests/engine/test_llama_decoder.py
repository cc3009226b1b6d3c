"""Our own forward pass against that of transformers, for each architecture that it knows."""

from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentlightning.engine.decoder import ModuleDecoder, open_decoder
from agentlightning.engine.kv_cache import KVCache, KVShape, TokenBatch
from agentlightning.engine.llama_decoder import LlamaDecoder

SIZE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
BIASES = {"attention_bias": True, "mlp_bias": True}
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
ARCHITECTURES: list[tuple[type, Any]] = [
    (LlamaForCausalLM, LlamaConfig(**SIZE)),
    (LlamaForCausalLM, LlamaConfig(**SIZE, **BIASES, rope_parameters=SCALED)),
    (MistralForCausalLM, MistralConfig(**SIZE, head_dim=16, sliding_window=None)),
    (Qwen2ForCausalLM, Qwen2Config(**SIZE, tie_word_embeddings=True)),
    (Qwen3ForCausalLM, Qwen3Config(**SIZE, head_dim=16)),
]


def make(architecture: tuple[type, Any], dtype: torch.dtype = torch.float32) -> Any:
    build, config = architecture
    torch.manual_seed(0)
    model = build(config).to(dtype).eval()
    for name, parameter in model.named_parameters():
        # Else all norms are ones and all biases zeros.
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter.data, mean=0.5)
    return model


@torch.no_grad()
def run(decoder: Any, model: Any, sizes: tuple[int, ...] = (9, 1, 5, 1)) -> list[torch.Tensor]:
    """Return the logits of three rows of different lengths that grow by so many tokens at once."""
    cache = KVCache(KVShape(model.config, model.dtype, torch.device("cpu")))
    generator = torch.Generator().manual_seed(1)
    starts = torch.tensor([0, 0, 0])
    logits: list[torch.Tensor] = []
    for step, size in enumerate(sizes):
        positions = starts[:, None] + torch.arange(size)
        columns = int(positions.max()) + 1
        cache.reserve(5, columns)
        logits.append(
            decoder.forward(
                cache,
                TokenBatch(
                    rows=slice(1, 4),
                    ids=torch.randint(0, 97, (3, size), generator=generator),
                    positions=positions,
                    columns=columns,
                    keep=torch.tensor([0, size - 1]),
                    adapters=[None] * 3,
                ),
            )
        )
        # Rows drop a part of what they wrote, so that they are ragged from then on.
        starts = starts + size - (torch.tensor([0, 1, 4]) if step == 0 else 0)
    return logits


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda it: it[0].__name__)
def test_logits_are_those_of_the_module(architecture: tuple[type, Any]) -> None:
    """Prefills, single tokens and chunks of ragged rows agree to 1e-5 in fp32."""
    model = make(architecture)
    ours = open_decoder(model)
    assert isinstance(ours, LlamaDecoder)
    for got, expected in zip(run(ours, model), run(ModuleDecoder(model), model), strict=True):
        assert got.shape == (3, 2, 97)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda it: it[0].__name__)
def test_bf16_lies_no_farther_from_fp32_than_the_module_does(
    architecture: tuple[type, Any],
) -> None:
    """In bf16, where single tokens take another way, the error is that of the number format."""
    exact = make(architecture)
    model = make(architecture, torch.bfloat16)
    truth = torch.cat([part.flatten() for part in run(ModuleDecoder(exact), exact)])
    errors = [
        (torch.cat([part.flatten() for part in run(decoder, model)]) - truth).square().mean().sqrt()
        for decoder in (LlamaDecoder(model), ModuleDecoder(model))
    ]
    assert errors[0] < 1.5 * errors[1]


def test_other_builds_are_left_to_the_module() -> None:
    """Hooks, quantised or merged layers and subclasses change what a module computes."""
    plain = make(ARCHITECTURES[0])
    hooked = make(ARCHITECTURES[0])
    hooked.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    replaced = make(ARCHITECTURES[0])
    replaced.model.layers[0].self_attn.q_proj = torch.nn.Identity()
    own = type("LlamaForCausalLM", (LlamaForCausalLM,), {})(ARCHITECTURES[0][1])
    assert isinstance(open_decoder(plain), LlamaDecoder)
    for model in (hooked, replaced, own):
        assert isinstance(open_decoder(model), ModuleDecoder)
