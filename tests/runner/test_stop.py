"""Following a stop signal."""

import asyncio

from agentlightning.execution.events import MultiprocessingEvent, ThreadingEvent
from agentlightning.runner.stop import until_set


async def test_the_loop_learns_of_the_signal():
    """`until_set` returns after the event was set, and not before."""
    for event in (ThreadingEvent(), MultiprocessingEvent()):
        waiting = asyncio.create_task(until_set(event, 0.01))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        event.set()
        await asyncio.wait_for(waiting, 10)
