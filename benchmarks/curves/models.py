"""Models made from nothing for the curves: a small Llama over an alphabet of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.tiny_model import write_llama

__all__ = ["END", "make_model", "make_tokenizer"]

END = "<end>"
SPECIAL = ("<pad>", END, "<system>", "<user>", "<assistant>", "<tool>")
TEMPLATE = """\
{% for message in messages -%}
<{{ message.role }}>{{ message.content or '' }}<end>
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


def make_model(
    path: str | Path,
    symbols: Sequence[str],
    *,
    seed: int = 0,
    characters: bool = False,
    hidden: int = 64,
    layers: int = 2,
    context: int = 128,
    spread: float = 0.02,
) -> Path:
    """Write a random Llama with fp32 weights and its tokenizer; takes about a second.

    Args:
        path: Directory to write; made if absent.
        symbols: What the model can read and say, one token each, besides the marks of the chat
            template. Words that stand apart in texts, or single characters.
        seed: Seed of the weights. The global random state is left as it was.
        characters: Whether symbols are single characters, which stand side by side.
        hidden: Width, a multiple of 32; heads are 16 wide. 64 with two layers and 40 symbols
            are 77 thousand parameters.
        layers: Decoder layers.
        context: Longest sequence in tokens.
        spread: Standard deviation of the weights. The embeddings are also the output's weights, and
            bound how sure a model can get whose embeddings are not trained, as with adapters.

    Returns:
        `path`.
    """
    return write_llama(
        path,
        make_tokenizer(symbols, characters=characters),
        seed=seed,
        hidden=hidden,
        layers=layers,
        context=context,
        intermediate_size=2 * hidden,
        initializer_range=spread,
    )


def make_tokenizer(symbols: Sequence[str], *, characters: bool = False) -> Any:
    """Return a tokenizer of symbols, a `PreTrainedTokenizerFast` with a chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {symbol: i for i, symbol in enumerate([*SPECIAL, *symbols])}
    backend = Tokenizer(models.WordLevel(known, unk_token=SPECIAL[0]))
    if characters:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        backend.decoder = decoders.Fuse()
    else:
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
