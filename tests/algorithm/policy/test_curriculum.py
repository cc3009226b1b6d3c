"""Which tasks a step trains on."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.policy.curriculum import (
    epoch_order,
    refill_task_indices,
    step_task_indices,
)


@given(
    seed=st.integers(0, 9),
    batch=st.integers(1, 7),
    tasks=st.integers(1, 9),
    steps=st.integers(1, 12),
)
def test_steps_walk_through_whole_passes(seed, batch, tasks, steps):
    """The steps in a row visit every task once per pass, in the order of that pass."""
    visited = [
        index
        for step in range(steps)
        for index in step_task_indices(seed=seed, step=step, batch=batch, tasks=tasks)
    ]
    for epoch in range(len(visited) // tasks):
        chunk = visited[epoch * tasks : (epoch + 1) * tasks]
        assert chunk == epoch_order(seed, epoch, tasks)
    counts = Counter(visited)
    assert max(counts.values()) - min(counts.get(i, 0) for i in range(tasks)) <= 1


def test_passes_differ():
    """Each pass has an order of its own, and so has each seed."""
    assert epoch_order(0, 0, 20) != epoch_order(0, 1, 20)
    assert epoch_order(0, 0, 20) != epoch_order(1, 0, 20)


@given(
    seed=st.integers(0, 9),
    number=st.integers(1, 3),
    count=st.integers(0, 12),
    tasks=st.integers(1, 9),
    used=st.sets(st.integers(0, 8)),
)
def test_refills_take_fresh_tasks_first_and_repeat(seed, number, count, tasks, used):
    """The same refill draws the same tasks, and one that the step has had only when no other is
    left."""
    asked = {"seed": seed, "step": 2, "number": number, "count": count, "tasks": tasks}
    drawn = refill_task_indices(**asked, used=used)
    assert drawn == refill_task_indices(**asked, used=frozenset(used))
    assert len(drawn) == count
    fresh = set(range(tasks)) - used
    assert set(drawn[: len(fresh)]) <= fresh
    assert max(Counter(drawn).values(), default=0) <= -(-count // tasks)


def test_each_refill_draws_by_itself():
    """Neither the passes nor another step's or round's refill decide on what a refill draws."""
    draws = {
        tuple(refill_task_indices(seed=0, step=s, number=n, count=6, tasks=50, used=()))
        for s in range(3)
        for n in (1, 2)
    }
    assert len(draws) == 6
