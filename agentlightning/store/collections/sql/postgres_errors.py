"""What errors of PostgreSQL and its driver mean for a step: try again, give up, or look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy.exc import SQLAlchemyError

DRIVER_ERRORS: Final = (
    PostgresError,
    InterfaceError,
    InternalClientError,
    SQLAlchemyError,
    OSError,
)
"""Everything that talking to a server may raise."""
_RETRIED: Final = frozenset({"40001", "40P01", "55P03"})
"""Serialisation failure, deadlock, lock not available: nothing was done, and it may work now."""
_LOST: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""The server goes down, is not up yet, or takes no more connections."""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was made of."""
    yield error
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def sql_state(error: BaseException) -> str:
    """Return PostgreSQL's code for an error; empty when it is none of the server's."""
    states = (getattr(cause, "sqlstate", None) for cause in _causes(error))
    return next((state for state in states if isinstance(state, str)), "")


def is_conflict(error: BaseException) -> bool:
    """Return whether a transaction failed only because others run beside it."""
    return sql_state(error) in _RETRIED


def is_refusal(error: BaseException) -> bool:
    """Return whether a value cannot be stored: the server says so, or the driver already."""
    return sql_state(error).startswith("22") or any(map(_is_misfit, _causes(error)))


def _is_misfit(error: BaseException) -> bool:
    return isinstance(error, InterfaceError) and isinstance(error, ValueError)


def is_loss(error: BaseException) -> bool:
    """Return whether the server could not be reached, or went away."""
    state = sql_state(error)
    if state:
        return state in _LOST or state.startswith("08")
    # The driver's own confusion is what a server's farewell to an idle connection leaves behind.
    lost = (OSError, InterfaceError, InternalClientError)
    return any(isinstance(cause, lost) and not _is_misfit(cause) for cause in _causes(error))
