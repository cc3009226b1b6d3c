"""Which tasks a step trains on: a pure function of seed and step, so that nothing is stored."""

from __future__ import annotations

import random
from collections.abc import Collection

__all__ = ["epoch_order", "refill_task_indices", "step_task_indices"]


def epoch_order(seed: int, epoch: int, tasks: int) -> list[int]:
    """Return the order in which pass number `epoch` visits the tasks."""
    order = list(range(tasks))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def step_task_indices(*, seed: int, step: int, batch: int, tasks: int) -> list[int]:
    """Return the indices of the tasks of one step.

    The tasks are visited in passes, each in an order of its own; a step may span two passes.

    Args:
        seed: The run's seed.
        step: Number of the step, from 0.
        batch: Tasks per step.
        tasks: Size of the dataset, at least 1.

    Example:
        >>> sorted(step_task_indices(seed=0, step=0, batch=3, tasks=3))
        [0, 1, 2]
    """
    indices: list[int] = []
    position = step * batch
    while len(indices) < batch:
        epoch, offset = divmod(position + len(indices), tasks)
        rest = epoch_order(seed, epoch, tasks)[offset:]
        indices.extend(rest[: batch - len(indices)])
    return indices


def refill_task_indices(
    *, seed: int, step: int, number: int, count: int, tasks: int, used: Collection[int]
) -> list[int]:
    """Return the tasks that take the place of those that taught nothing.

    They come from a stream of their own, so that the order of the passes stays as it is.

    Args:
        seed: The run's seed.
        step: Number of the step, from 0.
        number: Which refill of the step it is, from 1.
        count: Tasks to return.
        tasks: Size of the dataset, at least 1.
        used: Tasks that the step has had; they come again only when there are no others.

    Example:
        >>> sorted(refill_task_indices(seed=0, step=0, number=1, count=2, tasks=4, used={0, 3}))
        [1, 2]
    """
    order = list(range(tasks))
    random.Random(f"{seed}/{step}/refill/{number}").shuffle(order)
    order.sort(key=lambda index: index in used)
    return [order[place % tasks] for place in range(count)]
