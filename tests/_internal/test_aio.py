"""Waiting across event loops and threads."""

import asyncio
import threading

import pytest

from agentlightning._internal.aio import (
    CommittedThenCancelledError,
    CrossLoopLock,
    Waiter,
    WaitLine,
    drive,
)


def in_thread(coroutine_function) -> threading.Thread:
    thread = threading.Thread(target=lambda: asyncio.run(coroutine_function()))
    thread.start()
    return thread


def test_drive_returns_and_raises_at_once():
    """A coroutine that never waits is run without an event loop."""

    async def answer():
        return 42

    async def fail():
        raise KeyError("k")

    assert drive(answer()) == 42
    with pytest.raises(KeyError):
        drive(fail())


async def test_drive_refuses_to_wait():
    """A coroutine that waits is closed, and the error says what to use instead."""
    closed = []

    async def wait():
        try:
            await asyncio.sleep(1)
        finally:
            closed.append(True)

    with pytest.raises(RuntimeError, match="atomic"):
        drive(wait())
    assert closed == [True]


async def test_waiter_is_fired_once_from_any_thread():
    """The first firing wakes, later ones report that they did not."""
    waiter = Waiter()
    results = []
    thread = threading.Thread(target=lambda: results.extend([waiter.fire(), waiter.fire()]))
    thread.start()
    assert await waiter.wait(10) is True
    thread.join()
    assert results == [True, False]


async def test_waiter_times_out_and_abandons():
    """Without a firing the wait ends at its timeout; an abandoned waiter cannot be fired."""
    waiter = Waiter()
    assert await waiter.wait(0.01) is False
    assert waiter.abandon() is False
    assert waiter.fire() is False


def test_waiter_of_a_closed_loop_is_not_fired():
    """A wake-up for a loop that is gone reports that nobody was woken."""
    made = []

    async def make():
        made.append(Waiter())

    asyncio.run(make())
    assert made[0].fire() is False


async def test_line_is_first_come_first_served():
    """wake(n) wakes the first n, and passes over those who left."""
    line = WaitLine()
    waiters = [line.join() for _ in range(4)]
    line.leave(waiters[1])
    assert len(line) == 3
    assert line.wake(2) == 2
    assert [await w.wait(0) for w in waiters] == [True, False, True, False]
    assert line.wake_all() == 1
    assert line.wake() == 0


async def test_unused_wake_up_is_passed_on():
    """Who leaves with an unused wake-up may hand it to the next."""
    line = WaitLine()
    first, second = line.join(), line.join()
    line.wake()
    line.leave(first, pass_on=True)
    assert await second.wait(10) is True


def test_lock_excludes_across_loops_and_threads():
    """Tasks in several loops never hold the lock at the same time, and all get it."""
    lock = CrossLoopLock()
    inside, most, total = 0, 0, 0

    async def task():
        nonlocal inside, most, total
        for _ in range(25):
            async with lock:
                inside += 1
                most = max(most, inside)
                total += 1
                await asyncio.sleep(0)
                inside -= 1

    async def tasks():
        await asyncio.gather(*(task() for _ in range(3)))

    threads = [in_thread(tasks) for _ in range(4)]
    for thread in threads:
        thread.join(60)
    assert (most, total) == (1, 300)
    assert not lock.locked()


async def test_lock_is_handed_over_in_order():
    """Waiters get the lock in the order in which they came."""
    lock = CrossLoopLock()
    order = []

    async def take(name):
        async with lock:
            order.append(name)

    await lock.acquire()
    tasks = [asyncio.create_task(take(n)) for n in range(3)]
    await asyncio.sleep(0)
    lock.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_cancelled_waiter_does_not_keep_the_lock():
    """A waiter cancelled before, or just after, it is handed the lock does not lose it."""
    lock = CrossLoopLock()
    await lock.acquire()
    early, late = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.sleep(0)
    lock.release()
    late.cancel()
    await asyncio.gather(early, late, return_exceptions=True)
    assert not lock.locked()
    async with asyncio.timeout(10):
        await lock.acquire()


async def test_late_cancellation_is_a_cancellation():
    """Code that knows only CancelledError treats a late cancellation as one."""

    async def late():
        raise CommittedThenCancelledError("result")

    task = asyncio.create_task(late())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
