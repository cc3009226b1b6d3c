"""The background loop runs coroutines for blocking code, and ends with its last user."""

import asyncio

import pytest

from agentlightning.runner.background import background_loop
from tests.support.threads import new_threads


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
    with new_threads() as started:
        with background_loop() as first:
            with background_loop() as second:
                assert second is first
            assert len(started("agl-script")) == 1
            assert first.call(asyncio.sleep(0, "still here")) == "still here"
        assert not started("agl-script")
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
