"""The background loop runs coroutines for blocking code, and ends with its last user."""

import asyncio
import threading

import pytest

from agentlightning.runner.background import background_loop


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "agl-script"]


def test_calls_and_errors():
    """A call gives what the coroutine returns, or raises what it raises."""

    async def work(value):
        await asyncio.sleep(0)
        if value is None:
            raise LookupError("none")
        return value

    with background_loop() as loop:
        assert loop.call(work(3)) == 3
        with pytest.raises(LookupError):
            loop.call(work(None))


def test_users_share_one_loop():
    """Users at the same time share the thread, and the last one ends it."""
    with background_loop() as first:
        with background_loop() as second:
            assert second is first
        assert len(names()) == 1
        assert first.call(asyncio.sleep(0, "still here")) == "still here"
    assert names() == []
    with background_loop() as third:
        assert third is not first


def test_what_still_runs_is_cancelled():
    """When the last user leaves, begun coroutines are cancelled and can clean up."""
    ended: list[str] = []

    async def forever():
        try:
            await asyncio.sleep(600)
        finally:
            ended.append("yes")

    with background_loop() as loop:
        future = loop.begin(forever())
        loop.call(asyncio.sleep(0))
    assert ended == ["yes"]
    assert future.cancelled()
