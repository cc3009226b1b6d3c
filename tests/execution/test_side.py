"""Sides in threads and in place."""

import asyncio
import threading

import pytest

from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.side import Side, StopPolicy


def side(start, event=None, grace_seconds=0.1):
    """A side that notes its own end."""
    ended = []
    policy = StopPolicy(
        event=event or ThreadingEvent(), grace_seconds=grace_seconds, check_seconds=0.01
    )
    return Side("test", start, policy, ended.append), ended


async def endless():
    await asyncio.sleep(600)


async def broken():
    raise ValueError("broken")


async def cancels_itself():
    raise asyncio.CancelledError


def test_a_side_runs_in_place():
    """`run` returns when the coroutine has ended, and reports the end."""
    seen = []

    async def work():
        seen.append(threading.current_thread())

    it, ended = side(work)
    it.run()
    assert seen == [threading.current_thread()]
    assert ended == [it]
    assert it.error is None


@pytest.mark.parametrize(
    ("start", "error"), [(broken, ValueError), (cancels_itself, asyncio.CancelledError)]
)
def test_errors_are_kept(start, error):
    """What the coroutine raises is in `error`, also a cancellation nobody asked for."""
    it, ended = side(start)
    it.start()
    assert it.join(10)
    assert isinstance(it.error, error)
    assert ended == [it]


def test_a_side_can_be_cancelled_from_outside():
    """`cancel` ends the coroutine without an error, before or after it began."""
    early, _ = side(endless)
    early.cancel()
    early.run()
    late, _ = side(endless)
    late.start()
    assert not late.join(0.05)
    late.cancel()
    late.cancel()
    assert late.join(10)
    late.cancel()
    assert (early.error, late.error) == (None, None)


def test_the_event_cancels_after_the_grace():
    """After the stop signal a side that goes on is cancelled."""
    event = ThreadingEvent()
    event.set()
    it, _ = side(endless, event)
    it.run()
    assert it.error is None


def test_the_event_grants_a_grace():
    """After the stop signal a side may still finish."""
    event, finished = ThreadingEvent(), []
    event.set()

    async def slow():
        await asyncio.sleep(0.05)
        finished.append(True)

    it, _ = side(slow, event, grace_seconds=10)
    it.run()
    assert finished == [True]


async def test_a_running_loop_is_no_obstacle():
    """`run` works in a thread whose event loop runs already, in a thread of its own."""
    seen = []

    async def work():
        seen.append(threading.current_thread() is threading.main_thread())

    it, _ = side(work)
    it.run()
    assert seen == [False]
