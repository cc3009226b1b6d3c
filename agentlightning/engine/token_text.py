"""Single tokens as text and bytes, for the `logprobs` of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TokenText"]


class TokenText:
    """Names the tokens of a tokenizer; remembers what it named."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        byte_level = "ByteLevel" in repr(getattr(backend, "decoder", None))
        self._bytes = _byte_level_alphabet() if byte_level else {}

    def logprobs(
        self,
        ids: Sequence[int],
        values: Sequence[float],
        top: Sequence[Sequence[tuple[int, float]]],
    ) -> list[dict[str, Any]]:
        """Return the entries of `logprobs.content` in OpenAI's shape.

        Args:
            ids: Sampled ids.
            values: Their log-probabilities.
            top: Per token the likeliest ids with log-probabilities; may be empty.
        """
        return [
            {
                **self._entry(token, value),
                "top_logprobs": [self._entry(*pair) for pair in (top[i] if top else ())],
            }
            for i, (token, value) in enumerate(zip(ids, values, strict=True))
        ]

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._name(token)
        return {"token": known[0], "bytes": known[1], "logprob": value}

    def _name(self, token: int) -> tuple[str, list[int]]:
        text: str = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        symbols: Any = self._tokenizer.convert_ids_to_tokens(token)
        if isinstance(symbols, str) and symbols and all(c in self._bytes for c in symbols):
            return text, [self._bytes[symbol] for symbol in symbols]
        return text, list(text.encode())


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each symbol of GPT-2's byte-level alphabet stands for.

    Printable bytes stand for themselves; the others are numbered upwards from U+0100 (Radford et
    al. 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }
