"""Steps under way at once: in order, within the bound, and given up when the loop ends."""

import asyncio

import pytest

from agentlightning.algorithm.policy.ahead import StepsAhead
from agentlightning.algorithm.policy.step_sampler import StepSample


class Steps:
    """Samples that end when they are told to."""

    def __init__(self):
        self.began = []
        self.ends = [asyncio.Event() for _ in range(9)]
        self.given_up = []

    async def sample(self, step, on_done):
        self.began.append(step)
        try:
            on_done(step, 10)
            await self.ends[step].wait()
        except asyncio.CancelledError:
            self.given_up.append(step)
            raise
        return StepSample(refills=step)


async def test_steps_are_handed_out_in_order_whichever_ends_first():
    """A later step that is complete waits for its turn, and only then the next one begins."""
    steps = Steps()
    ahead = StepsAhead(steps.sample, total=4, bound=1)
    steps.ends[1].set()
    first = asyncio.create_task(ahead.take(0, lambda done, all_: None))
    await asyncio.sleep(0.01)
    assert (steps.began, first.done(), ahead.under_way) == ([0, 1], False, 1)
    steps.ends[0].set()
    assert (await first).refills == 0
    assert steps.began == [0, 1]
    assert (await ahead.take(1, lambda done, all_: None)).refills == 1
    assert steps.began == [0, 1, 2]
    await ahead.stop()


async def test_nothing_is_sampled_beyond_the_last_step():
    """The bound does not lead past the end of the run."""
    steps = Steps()
    ahead = StepsAhead(steps.sample, total=2, bound=5)
    for step in range(2):
        steps.ends[step].set()
        await ahead.take(step, lambda done, all_: None)
    assert steps.began == [0, 1]


async def test_only_the_step_that_is_waited_for_tells_how_far_it_is():
    """The others are silent until it is their turn."""
    steps, told = Steps(), []
    ahead = StepsAhead(steps.sample, total=3, bound=2)
    steps.ends[0].set()
    await ahead.take(0, lambda done, all_: told.append((done, all_)))
    assert told == [(0, 10)]
    await ahead.stop()


async def test_settling_waits_for_all_and_keeps_what_they_brought():
    """Afterwards nothing is under way, and each step can still be taken."""
    steps = Steps()
    ahead = StepsAhead(steps.sample, total=3, bound=2)
    steps.ends[0].set()
    await ahead.take(0, lambda done, all_: None)
    settled = asyncio.create_task(ahead.settle())
    steps.ends[1].set()
    await asyncio.sleep(0.01)
    assert not settled.done()
    steps.ends[2].set()
    await settled
    assert ahead.under_way == 0
    assert [(await ahead.take(step, lambda done, all_: None)).refills for step in (1, 2)] == [1, 2]


async def test_stopping_gives_up_what_is_under_way():
    """Also twice, and before anything began."""
    steps = Steps()
    ahead = StepsAhead(steps.sample, total=3, bound=2)
    await ahead.stop()
    steps.ends[0].set()
    await ahead.take(0, lambda done, all_: None)
    await ahead.stop()
    await ahead.stop()
    assert steps.given_up == [1, 2]
    assert ahead.under_way == 0


async def test_what_fails_is_told_when_its_turn_comes():
    """A step that cannot be sampled raises to whoever takes it."""

    async def fail(step, on_done):
        raise RuntimeError(f"step {step}")

    ahead = StepsAhead(fail, total=1, bound=0)
    with pytest.raises(RuntimeError, match="step 0"):
        await ahead.take(0, lambda done, all_: None)
    await ahead.stop()
