"""The active tracer belongs to a context."""

import asyncio
import contextvars
import threading
from contextlib import asynccontextmanager

import pytest

from agentlightning.errors import TracerError
from agentlightning.tracer import (
    DummyTracer,
    clear_active_tracer,
    get_active_tracer,
    set_active_tracer,
)
from agentlightning.tracer.base import Tracer, require_active_tracer, with_active_tracer_context


class Plain(Tracer):
    """A user's tracer in the manner of 0.3.0."""

    @with_active_tracer_context
    @asynccontextmanager
    async def trace_context(self, name=None, **given):
        if name == "broken":
            raise OSError("no")
        yield self


def test_set_and_clear():
    """A second tracer is refused until the first is cleared."""

    def body():
        set_active_tracer(DummyTracer())
        with pytest.raises(ValueError, match="active"):
            set_active_tracer(DummyTracer())
        clear_active_tracer()
        clear_active_tracer()
        assert get_active_tracer() is None

    contextvars.Context().run(body)


def test_no_tracer_says_what_to_do():
    """Needing a tracer without one is a RuntimeError that names the remedies."""
    with pytest.raises(TracerError, match="No active tracer") as caught:
        contextvars.Context().run(require_active_tracer)
    assert isinstance(caught.value, RuntimeError)


async def test_contexts_do_not_see_each_other():
    """Tasks at the same time each see their own tracer, and nested contexts restore the outer."""
    tracers = [Plain() for _ in range(20)]

    async def use(tracer: Plain):
        async with tracer.trace_context():
            await asyncio.sleep(0)
            assert get_active_tracer() is tracer
            inner = Plain()
            async with inner.trace_context():
                await asyncio.sleep(0)
                assert get_active_tracer() is inner
            assert get_active_tracer() is tracer
        assert get_active_tracer() is None

    await asyncio.gather(*map(use, tracers))


async def test_a_failing_context_restores_the_outer():
    """When a context cannot be entered, the one before stays active."""
    outer = Plain()
    async with outer.trace_context():
        with pytest.raises(OSError, match="no"):
            async with Plain().trace_context("broken"):
                pass
        assert get_active_tracer() is outer


async def test_threads_see_the_tracer_when_the_context_is_carried():
    """A bare thread has no tracer; one that runs in a copied context has."""
    tracer = Plain()
    seen = []

    def look():
        seen.append(get_active_tracer())

    async with tracer.trace_context():
        bare = threading.Thread(target=look)
        carried = threading.Thread(target=contextvars.copy_context().run, args=(look,))
        for thread in (bare, carried):
            thread.start()
            thread.join()
        await asyncio.to_thread(look)
    assert seen == [None, tracer, tracer]
