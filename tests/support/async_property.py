"""Hypothesis over coroutines that share one event loop with their fixtures."""

import asyncio
from typing import Any


async def run_property(test: Any) -> None:
    """Run a property whose test is a coroutine; its examples run in the caller's loop."""
    loop = asyncio.get_running_loop()
    inner = test.hypothesis.inner_test

    def bridge(*args: Any, **kwargs: Any) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **kwargs), loop).result(30)

    test.hypothesis.inner_test = bridge
    await asyncio.to_thread(test)
