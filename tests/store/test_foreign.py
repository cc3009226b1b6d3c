"""Stores of the user's own: whatever they raise is an error that callers know."""

import pytest

from agentlightning.errors import NotFoundError, StoreUnavailableError
from agentlightning.store.foreign import UnknownStoreError, store_errors


class StrangeError(Exception):
    """Of nobody's tree."""


@pytest.mark.parametrize("raised", [StrangeError("x"), OSError("x"), KeyError("x"), RuntimeError()])
def test_what_is_unknown_is_a_store_error(raised: Exception) -> None:
    """The cause is kept, and named in the message."""
    with pytest.raises(UnknownStoreError) as caught, store_errors():
        raise raised
    assert caught.value.__cause__ is raised
    assert repr(raised) in str(caught.value)


@pytest.mark.parametrize(
    "raised",
    [NotFoundError("x"), StoreUnavailableError("x"), ValueError(), TypeError(), TimeoutError()],
)
def test_what_is_known_passes(raised: Exception) -> None:
    """Errors that say what to do stay what they are."""
    with pytest.raises(type(raised)) as caught, store_errors():
        raise raised
    assert caught.value is raised


def test_interrupts_pass() -> None:
    """What is no error of the store is not made one."""
    with pytest.raises(KeyboardInterrupt), store_errors():
        raise KeyboardInterrupt
