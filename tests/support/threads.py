"""The threads that a block started, whatever other tests of the process left behind."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def new_threads() -> Iterator[Callable[[str], list[threading.Thread]]]:
    """Give a function for the living threads begun since, of a name or a name's beginning."""
    before = set(threading.enumerate())

    def found(prefix: str) -> list[threading.Thread]:
        started = set(threading.enumerate()) - before
        return [thread for thread in started if thread.name.startswith(prefix)]

    yield found
