"""Tests of the event loop on a thread of its own."""

import asyncio
import contextvars
import threading

import pytest

from agentlightning._internal.aio import CommittedThenCancelledError
from agentlightning._internal.io_loop import IoLoop
from agentlightning.errors import StoreError


@pytest.fixture
def loop():
    own = IoLoop("test-io")
    yield own
    own.close()
    assert not any(thread.name == "test-io" for thread in threading.enumerate())


async def test_work_runs_on_the_loop_in_the_callers_context(loop: IoLoop):
    """Work runs on the other thread, sees the caller's context variables, and gives its result."""
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    async def work():
        await asyncio.sleep(0)
        assert loop.owns_current_thread()
        return variable.get(), threading.current_thread().name

    assert await loop.run(work) == (7, "test-io")
    assert not loop.owns_current_thread()


async def test_errors_reach_the_caller(loop: IoLoop):
    """An exception of the work is raised where it was asked for."""

    async def work():
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await loop.run(work)


async def test_a_cancelled_caller_cancels_the_work(loop: IoLoop):
    """Cancelling the caller cancels the work, and the caller returns after that took effect."""
    began, ended = threading.Event(), threading.Event()

    async def work():
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(loop.run(work))
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_work_that_is_done_despite_the_cancellation_is_told(loop: IoLoop):
    """A caller cancelled too late learns what was done."""
    began, go_on = threading.Event(), threading.Event()

    async def work():
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            go_on.set()
        return "done"

    task = asyncio.create_task(loop.run(work))
    await asyncio.to_thread(began.wait)
    task.cancel()
    with pytest.raises(CommittedThenCancelledError) as caught:
        await task
    assert caught.value.result == "done"


async def test_a_closed_loop_refuses_work(loop: IoLoop):
    """After `close` work is refused with what to do."""
    loop.close()
    with pytest.raises(StoreError, match="open it again"):
        await loop.run(lambda: asyncio.sleep(0))


def test_callers_of_several_loops_share_it(loop: IoLoop):
    """Callers of different event loops use one loop at the same time."""

    async def caller(number: int) -> list[int]:
        async def work(value: int) -> int:
            await asyncio.sleep(0)
            return value * 2

        return [await loop.run(lambda: work(number)) for _ in range(20)]

    results: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: asyncio.run(caller(n))}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {n: [2 * n] * 20 for n in range(4)}


async def test_spawned_work_runs_until_it_is_stopped(loop: IoLoop):
    """Background work starts without being waited for, and ends when it is told to."""
    started, ended = threading.Event(), threading.Event()

    async def work():
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stop = loop.spawn(work)
    assert await asyncio.to_thread(started.wait, 30)
    assert not ended.is_set()
    stop()
    stop()
    assert await asyncio.to_thread(ended.wait, 30)
    loop.close()
    stop()


async def test_closing_ends_what_still_runs(loop: IoLoop):
    """Whoever waits for work when the loop is closed is told so, however close the race."""
    running = [asyncio.create_task(loop.run(lambda: asyncio.sleep(60))) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.to_thread(loop.close)
    results = await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 10)
    assert all(isinstance(each, StoreError) for each in results)


async def test_cancelling_after_closing_is_a_cancellation(loop: IoLoop):
    """A caller that is cancelled when the loop is closed already is cancelled, not broken."""
    began = threading.Event()

    async def work():
        began.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(loop.run(work))
    await asyncio.to_thread(began.wait)
    loop.close()
    task.cancel()
    with pytest.raises((asyncio.CancelledError, StoreError)):
        await task
