"""The gate: who waits, who is let in, who is counted."""

import asyncio

import pytest

from agentlightning.errors import GatewayPausedError
from agentlightning.gateway.pause import PauseGate


async def test_a_gate_paused_again_at_once_holds_waiting_calls_back() -> None:
    """A call that waited through a resume and the next pause does not slip in between."""
    gate = PauseGate()
    gate.pause()
    waiting = asyncio.create_task(gate.enter(10))
    await asyncio.sleep(0)
    gate.resume()
    gate.pause()
    for _ in range(5):
        await asyncio.sleep(0)
    assert gate.in_flight == 0
    gate.resume()
    await waiting
    assert gate.in_flight == 1


async def test_a_call_that_gave_up_is_not_counted() -> None:
    """A call that waited too long leaves nothing that a drain would wait for."""
    gate = PauseGate()
    gate.pause()
    with pytest.raises(GatewayPausedError):
        await gate.enter(0.01)
    assert gate.in_flight == 0
    assert await gate.drain(0)


async def test_drain_ends_with_the_last_call() -> None:
    """A drain waits for every call inside, paused or not."""
    gate = PauseGate()
    await gate.enter(0)
    await gate.enter(0)
    draining = asyncio.create_task(gate.drain(10))
    gate.leave()
    assert not await gate.drain(0)
    gate.leave()
    assert await draining
