"""Thread pools carry the context of who submits, while instrumented."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from agentlightning.instrumentation.threads import instrument_threads, uninstrument_threads

VALUE: ContextVar[str] = ContextVar("value", default="none")


@pytest.fixture
def instrumented():
    """Thread pools are instrumented during the test."""
    instrument_threads()
    yield
    uninstrument_threads()


async def test_context_is_carried(instrumented):
    """Submitted work and `run_in_executor` see the submitter's context, and not each other's."""
    with ThreadPoolExecutor(1) as pool:

        async def one(name: str):
            VALUE.set(name)
            loop = asyncio.get_running_loop()
            direct = asyncio.wrap_future(pool.submit(VALUE.get))
            return name, await direct, await loop.run_in_executor(pool, VALUE.get)

        for name, *seen in await asyncio.gather(*map(one, "abcdef")):
            assert seen == [name, name]


def test_it_is_undone_by_the_last_user():
    """The original is back when everybody has stopped; one call too many is harmless."""
    original = ThreadPoolExecutor.submit
    instrument_threads()
    instrument_threads()
    uninstrument_threads()
    assert ThreadPoolExecutor.submit is not original
    uninstrument_threads()
    assert ThreadPoolExecutor.submit is original
    uninstrument_threads()
    instrument_threads()
    assert ThreadPoolExecutor.submit is not original
    uninstrument_threads()
    assert ThreadPoolExecutor.submit is original


def test_another_wrapper_on_top(monkeypatch):
    """A library that wrapped `submit` after us keeps working, whatever the order of undoing."""
    monkeypatch.setattr(ThreadPoolExecutor, "submit", ThreadPoolExecutor.submit)
    instrument_threads()
    below = ThreadPoolExecutor.submit
    calls = []

    def theirs(self, fn, /, *args, **kwargs):
        calls.append(fn)
        return below(self, fn, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", theirs)
    uninstrument_threads()
    assert ThreadPoolExecutor.submit is theirs
    instrument_threads()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(int, "3").result() == 3
    uninstrument_threads()
    assert ThreadPoolExecutor.submit is theirs
    assert len(calls) == 1


def test_errors_and_results_come_through(instrumented):
    """The future is the one of the function itself."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(max, 1, 2, key=lambda x: -x).result() == 1
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()
