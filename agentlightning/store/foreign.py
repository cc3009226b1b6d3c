"""The edge to stores of the user's own, which may raise anything."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from agentlightning.errors import StoreError

__all__ = ["OTHER_ERRORS", "UnknownStoreError", "store_errors"]

OTHER_ERRORS: Final = (ValueError, TypeError, NotImplementedError, TimeoutError)
"""What a store may raise beside `StoreError`: for its arguments, or where the caller's time is up."""


class UnknownStoreError(StoreError):
    """A store raised what no store of ours does; its cause says what.

    Whether the same call may succeed if made again is not known.
    """


@contextmanager
def store_errors() -> Generator[None]:
    """Turn whatever a store raises into an error that callers of stores know.

    `StoreError` and `OTHER_ERRORS` pass as they are.

    Raises:
        UnknownStoreError: The store raised anything else.
    """
    try:
        yield
    except (StoreError, *OTHER_ERRORS):
        raise
    except Exception as error:
        raise UnknownStoreError(f"The store failed: {error!r}. See its cause.") from error
