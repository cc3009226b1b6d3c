"""Giving free memory back to the system."""

import platform
import threading

import pytest

from agentlightning._internal.heap import HeapKeeper, release_free_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_pages_that_were_freed_between_others_are_given_back() -> None:
    """Free pages in a heap of a thread go back though others behind them are in use."""
    kept: list[bytearray] = []

    def work() -> None:
        blocks = [bytearray(32_000) for _ in range(200)]
        kept.extend(blocks[::2])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert release_free_memory()
    assert len(kept) == 100


def test_looking_does_something_only_now_and_then() -> None:
    """Between two times a look does nothing."""
    assert not HeapKeeper(every_seconds=3600).look()
    keeper = HeapKeeper(every_seconds=0)
    assert [keeper.look(), keeper.look()] == [True, True]
