"""Answers kept for clients that ask again under the same `Idempotency-Key`.

A client whose connection broke cannot know whether its call was made. With a key it gets the
answer that was made and recorded, instead of a second one. Only whole, recorded successes are
kept; the cache lives in memory and belongs to one event loop.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from agentlightning.errors import RequestError
from agentlightning.gateway.seal import AttemptKey

__all__ = ["KEY_HEADER", "REPLAYED_HEADER", "KeptAnswer", "ReplayCache", "ReplayKey"]

KEY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
"""Says on an answer that it was given before."""

ReplayKey = tuple[AttemptKey, str]
"""The attempt that calls, and the client's name for the call."""

_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a client was, or would have been, sent."""

    digest: bytes
    """Of the request's body."""
    status: int
    headers: dict[str, str]
    body: bytes


class ReplayCache:
    """Answers by key; the oldest are given up past a bound on bytes."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._size = 0
        self._answers: OrderedDict[ReplayKey, KeptAnswer] = OrderedDict()

    def put(
        self, key: ReplayKey, asked: bytes, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """Keep an answer to the request body `asked`."""
        if len(body) > self._most_bytes or key in self._answers:
            return
        self._answers[key] = KeptAnswer(_digest(asked), status, headers, body)
        self._size += len(body)
        while self._size > self._most_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._size -= len(oldest.body)

    def find(self, key: ReplayKey, asked: bytes) -> KeptAnswer | None:
        """Return the answer to an earlier request of this key, or None.

        Raises:
            RequestError: That request asked for something else (409).
        """
        kept = self._answers.get(key)
        if kept is not None and kept.digest != _digest(asked):
            raise RequestError(
                f"The {KEY_HEADER} {key[1]!r} was used for another request. Give each its own.",
                status=409,
                error_code="idempotency_key_reused",
            )
        return kept


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
