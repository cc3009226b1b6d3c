"""Stop signals between threads and processes."""

import multiprocessing
import os
import signal
import threading

import pytest

from agentlightning.execution.events import MultiprocessingEvent, ThreadingEvent


@pytest.fixture(params=[ThreadingEvent, MultiprocessingEvent])
def event(request):
    return request.param()


def test_the_flag_goes_up_and_down(event):
    """Setting and clearing may be repeated, and `is_set` tells the state."""
    assert not event.is_set()
    event.clear()
    for _ in range(2):
        event.set()
        assert event.is_set()
    for _ in range(2):
        event.clear()
        assert not event.is_set()


def test_waiting_ends_with_the_flag_or_the_timeout(event):
    """`wait` returns whether the flag is up, at once when it is."""
    assert event.wait(0.01) is False
    assert event.wait(0) is False
    timer = threading.Timer(0.05, event.set)
    timer.start()
    assert event.wait(10) is True
    assert event.wait() is True
    timer.join()


def _set(event):
    event.set()


def _hammer(event):
    os.kill(os.getppid(), 0)
    while True:
        event.is_set()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_flag_is_shared_with_processes(method):
    """A child, forked or spawned, raises the flag of its parent."""
    context = multiprocessing.get_context(method)
    event = MultiprocessingEvent(ctx=context)
    process = context.Process(target=_set, args=(event,))
    process.start()
    assert event.wait(30)
    process.join(30)
    process.close()


def test_a_killed_process_blocks_nobody():
    """Killing a process while it looks at the flag leaves the flag usable."""
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        event = MultiprocessingEvent()
        process = context.Process(target=_hammer, args=(event,))
        process.start()
        process.join(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        process.close()
        event.set()
        assert event.is_set()
        event.clear()
        assert not event.is_set()
