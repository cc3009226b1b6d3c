"""The idempotency key of the call at hand, carried by context from the server to the store."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_key: ContextVar[str | None] = ContextVar("agentlightning_idempotency_key", default=None)


def current_idempotency_key() -> str | None:
    """Return the key of the call at hand, if its caller gave one."""
    return _key.get()


@contextmanager
def idempotency_key(key: str | None) -> Generator[None]:
    """Give the store calls within the block a key: a repeat with the same key does nothing new.

    One key belongs to one call: never share it between two different ones.
    """
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)
