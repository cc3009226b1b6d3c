"""Chunks that bring one token and nothing else, read by a pattern instead of a parser.

All chunks of a stream but the first and the last are like this where a server tells token ids, and
they differ in the token alone. What the pattern does not know, or what is not written as vLLM
writes it, is left to the parser; the outcome is the same.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from agentlightning.gateway.jsontext import parse_json

__all__ = ["TokenChunk", "TokenReader"]

_DATA: Final = b"data: "
_CHOICES: Final = b'"choices":['
_UNCHANGING: Final = frozenset(
    {"id", "object", "created", "model", "service_tier", "system_fingerprint", "choices"}
)
"""Members before the choices that say nothing new when they are said again."""

_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+"'
_NATURAL = rb"(?:0|[1-9]\d{0,15})"
_DECIMAL = rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e-?\d+)?"
_BYTES = rb"(?:null|\[[\d,]*+\])"
_read_choice = re.compile(
    rb'{"index":(%b),"delta":{"content":(%b)},' % (_NATURAL, _STRING)
    + rb'"logprobs":{"content":\[{"token":%b,"logprob":(%b),' % (_STRING, _DECIMAL)
    + rb'"bytes":%b,"top_logprobs":\[\]}\]},"finish_reason":null' % _BYTES
    + rb'((?:,"stop_reason":null)?),"token_ids":\[(%b)\]}\]}\n\n' % _NATURAL
).fullmatch
_CUT = b'%b{"index":%b,"delta":{"content":%b},"logprobs":null,"finish_reason":null%b}]}\n\n'


class TokenChunk(NamedTuple):
    """What a chunk says."""

    choice: int
    """Which of the answer's choices it goes on with."""
    text: str
    logprob: float
    token_id: int


class TokenReader:
    """Reads the chunks of one stream.

    Perf: 2 µs a chunk, where parsing it, looking through it and cutting it takes 6.
    """

    def __init__(self) -> None:
        self._head: bytes | None = None

    def learn(self, event: bytes) -> None:
        """Note how the chunks of this stream begin, from one that is to be parsed."""
        if self._head is not None and event.startswith(self._head):
            return
        before, found, _ = event.partition(_CHOICES)
        head = before + found
        try:
            members = parse_json(head.removeprefix(_DATA) + b"]}")
        except ValueError:
            members = None
        is_plain = isinstance(members, dict) and _UNCHANGING.issuperset(members)
        is_one_line = head.startswith(_DATA) and len(head.splitlines()) == 1
        self._head = head if is_plain and is_one_line else None

    def read(self, event: bytes) -> tuple[TokenChunk, bytes] | None:
        """Return what an event says, and the event without id and log-probability.

        None for one that has to be parsed.
        """
        head = self._head
        if head is None or not event.startswith(head):
            return None
        found = _read_choice(event, len(head))
        if found is None:
            return None
        index, text, logprob, stop, token_id = found.groups()
        try:
            # Perf: one call for all of them takes a third of one call for each.
            values = parse_json(b"[%b,%b,%b,%b]" % (index, text, logprob, token_id))
        except ValueError:
            return None
        return TokenChunk._make(values), _CUT % (head, index, text, stop)
