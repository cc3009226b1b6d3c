"""A causal language model small enough to make, load and train inside one test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOOL_WORDS = ("<tool_call>\n", "\n</tool_call>", '{"name": "', '", "arguments": {', "}}")
"""Pieces of the Hermes tool-call format that are one token each, so that a call is short."""

CHAT_TEMPLATE = """\
{% if tools %}
<|im_start|>system
# Tools
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
Answer with <tool_call>
{"name": ..., "arguments": {...}}
</tool_call><|im_end|>
{% endif %}
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{ '<tool_call>\\n' }}{{ call.function | tojson }}{{ '\\n</tool_call>' }}
{%- endfor %}
<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
PAD = "<|endoftext|>"
START = "<|im_start|>"
EOS = "<|im_end|>"


def make_tiny_model(
    path: str | Path,
    *,
    seed: int = 0,
    words: Sequence[str] = (),
    hidden: int = 64,
    layers: int = 2,
    context: int = 512,
) -> Path:
    """Write a random Llama and its tokenizer to a directory; takes well under two seconds.

    The tokenizer is byte-level without merges (one token per UTF-8 byte, so any text can come
    out of it), plus one token for each of `TOOL_WORDS` and `words`. With the defaults the model
    has about 120 thousand fp32 parameters and the same `seed` gives the same weights.

    Args:
        path: Directory to write; made if absent.
        seed: Seed of the weights. The global random state is left as it was.
        words: Further strings that are to be single tokens, for instance names of tools.
        hidden: Width of the model, a multiple of 32; heads are 16 wide.
        layers: Number of decoder layers.
        context: Longest sequence, in tokens.

    Returns:
        `path`, ready for `load_model`.
    """
    tokenizer = make_tiny_tokenizer(words)
    return write_llama(
        path,
        tokenizer,
        seed=seed,
        hidden=hidden,
        layers=layers,
        context=context,
        intermediate_size=3 * hidden,
    )


def write_llama(
    path: str | Path,
    tokenizer: Any,
    *,
    seed: int,
    hidden: int,
    layers: int,
    context: int,
    **options: Any,
) -> Path:
    """Write a random fp32 Llama with tied embeddings, and its tokenizer, to a directory.

    Args:
        path: Directory to write; made if absent.
        tokenizer: Of Hugging Face's kind, with end and padding token.
        seed: Seed of the weights. The global random state is left as it was.
        hidden: Width, a multiple of 32; heads are 16 wide.
        layers: Number of decoder layers.
        context: Longest sequence, in tokens.
        options: More of what `LlamaConfig` takes.

    Returns:
        `path`.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 16,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    directory = Path(path)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_tiny_tokenizer(words: Sequence[str] = ()):
    """Return the tokenizer of `make_tiny_model`, a `PreTrainedTokenizerFast`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in (PAD, START, EOS)])
    backend.add_tokens([AddedToken(text, normalized=False) for text in (*TOOL_WORDS, *words)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
