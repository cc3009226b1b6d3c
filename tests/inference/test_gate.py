"""A gate for calls from any event loop."""

import asyncio
import threading

import pytest

from agentlightning.inference.gate import Gate


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_wait_while_it_is_closed():
    """A closed gate holds new calls back and lets all of them in when it opens."""
    gate = Gate()
    passed: list[int] = []

    async def call(number: int) -> None:
        async with gate.passing():
            passed.append(number)

    gate.close()
    calls = [asyncio.create_task(call(number)) for number in range(3)]
    await settle()
    assert (passed, gate.outside, gate.inside, gate.closed) == ([], 3, 0, True)
    gate.open()
    await asyncio.gather(*calls)
    assert (sorted(passed), gate.outside, gate.inside, gate.closed) == ([0, 1, 2], 0, 0, False)


async def test_it_tells_when_the_last_call_has_left():
    """`empty` returns once nobody is inside, at once if nobody is."""
    gate = Gate()
    await gate.empty()
    leave = asyncio.Event()

    async def call() -> None:
        async with gate.passing():
            await leave.wait()

    calls = [asyncio.create_task(call()) for _ in range(2)]
    await settle()
    waiting = asyncio.create_task(gate.empty())
    await settle()
    assert (waiting.done(), gate.inside) == (False, 2)
    leave.set()
    await waiting
    await asyncio.gather(*calls)


async def test_a_call_that_gives_up_waits_no_longer():
    """Cancelled before a closed gate, a call is forgotten; cancelled inside, it has left."""
    gate = Gate()
    gate.close()

    async def call() -> None:
        async with gate.passing():
            await asyncio.Event().wait()

    outside = asyncio.create_task(call())
    await settle()
    outside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outside
    assert gate.outside == 0
    gate.open()
    inside = asyncio.create_task(call())
    await settle()
    assert gate.inside == 1
    inside.cancel()
    await gate.empty()
    assert gate.inside == 0


async def test_calls_come_from_any_event_loop():
    """A call in another thread's loop waits for the same gate, and is waited for."""
    gate = Gate()
    gate.close()
    passed = threading.Event()

    async def call() -> None:
        async with gate.passing():
            passed.set()

    thread = threading.Thread(target=lambda: asyncio.run(call()))
    thread.start()
    while not gate.outside:
        await asyncio.sleep(0.001)
    assert not passed.is_set()
    gate.open()
    await asyncio.to_thread(thread.join)
    await gate.empty()
    assert passed.is_set()
