"""Calling users' code in tasks and threads."""

import asyncio
import contextvars
import threading
import time

import pytest

from agentlightning.errors import AgentError
from agentlightning.runner.invocation import invoke_async, invoke_sync

PLACE: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


async def test_results_and_errors_come_through():
    """Both kinds of call give back what the code returns or raises."""

    async def good():
        return 1

    def bad():
        raise KeyError("x")

    assert await invoke_async(good()).future == 1
    assert await invoke_sync(lambda: 2).future == 2
    with pytest.raises(KeyError):
        await invoke_sync(bad).future


async def test_context_is_copied_both_ways():
    """The code sees the caller's context and cannot change it."""

    def read_and_write():
        seen = PLACE.get()
        PLACE.set("changed")
        return seen

    PLACE.set("here")
    assert await invoke_sync(read_and_write).future == "here"
    assert PLACE.get() == "here"


@pytest.mark.parametrize("error", [SystemExit(1), StopIteration(), KeyboardInterrupt()])
async def test_errors_that_end_loops_are_wrapped(error):
    """Exceptions that an event loop cannot carry arrive as agent errors."""

    def call():
        raise error

    with pytest.raises(AgentError) as caught:
        await invoke_sync(call).future
    assert caught.value.__cause__ is error


async def test_a_call_that_will_not_stop_is_left_behind():
    """Abandoning a coroutine that swallows its cancellation ends after the grace."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    invocation = invoke_async(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(invocation.abandon(), 10)
    assert not invocation.future.done()
    release.set()
    await invocation.future


async def test_a_thread_that_blocks_is_left_behind():
    """Abandoning a blocking call does not wait for it; its late result harms nobody."""
    release, ended = threading.Event(), threading.Event()

    def block():
        try:
            while not release.wait(0.01):
                time.sleep(0)
        finally:
            ended.set()

    invocation = invoke_sync(block)
    await asyncio.wait_for(invocation.abandon(), 10)
    release.set()
    assert await asyncio.to_thread(ended.wait, 10)


async def test_abandoning_an_ended_call_is_harmless():
    """Abandoning twice, or after the end, does nothing."""
    invocation = invoke_sync(lambda: 1)
    await invocation.future
    await invocation.abandon()
    await invocation.abandon()
