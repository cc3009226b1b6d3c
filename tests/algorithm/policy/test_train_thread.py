"""The one thread in which a policy computes with the model that is trained."""

import asyncio
import contextvars
import threading

import pytest

from agentlightning.algorithm.policy.train_thread import TrainThread


async def test_everything_runs_in_one_thread_in_order() -> None:
    """Work of several tasks is done one after the other, all in the same thread."""
    thread = TrainThread()
    done: list[int] = []

    def work(number: int) -> int:
        done.append(number)
        return threading.get_ident()

    idents = await asyncio.gather(*(thread.run(work, number) for number in range(50)))
    assert done == list(range(50))
    assert len(set(idents)) == 1
    assert idents[0] != threading.get_ident()
    await thread.close()


async def test_work_sees_the_callers_context_and_its_errors_are_passed_on() -> None:
    """Context variables are those of the caller, and so is what the work raises."""
    variable = contextvars.ContextVar("variable", default=0)
    thread = TrainThread()
    variable.set(3)
    assert await thread.run(variable.get) == 3

    def fail() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await thread.run(fail)
    await thread.close()


async def test_closing_ends_the_thread() -> None:
    """After closing, the thread is gone; more work gets a new one."""
    thread = TrainThread()
    first = await thread.run(threading.current_thread)
    await thread.close()
    assert not first.is_alive()
    await thread.close()
    second = await thread.run(threading.current_thread)
    assert second is not first
    await thread.close()
