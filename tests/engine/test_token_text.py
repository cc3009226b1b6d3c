"""Tokens as text and bytes."""

from agentlightning.engine.token_text import TokenText
from tests.support.tiny_model import make_tiny_tokenizer


def test_parts_of_a_character_are_told_as_bytes() -> None:
    """A token that holds half a character still tells its exact byte."""
    tokenizer = make_tiny_tokenizer()
    ids = tokenizer("é x")["input_ids"]
    entries = TokenText(tokenizer).logprobs(ids, [-0.5] * len(ids), [])
    assert [byte for entry in entries for byte in entry["bytes"]] == list("é x".encode())
    assert entries[-1] == {"token": "x", "bytes": [120], "logprob": -0.5, "top_logprobs": []}


def test_special_tokens_have_the_bytes_of_their_name() -> None:
    """An end token is told by its name, alternatives beside it."""
    tokenizer = make_tiny_tokenizer()
    end = tokenizer.eos_token_id
    entry = TokenText(tokenizer).logprobs([end], [0.0], [[(end, 0.0)]])[0]
    assert bytes(entry["bytes"]).decode() == entry["token"] == "<|im_end|>"
    assert entry["top_logprobs"][0]["token"] == "<|im_end|>"
