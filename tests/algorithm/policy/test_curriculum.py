"""Which tasks a step trains on."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.algorithm.policy.curriculum import epoch_order, step_task_indices


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
