"""Arithmetic questions, made from a seed; the held-out ones use numbers never trained on."""

import random
from collections.abc import Callable

WORDS: dict[str, Callable[[int, int], int]] = {
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "times": lambda a, b: a * b,
}


def make_tasks(count: int, *, seed: int, low: int, high: int) -> list[dict]:
    """Return `count` questions about two numbers between `low` and `high`."""
    rng = random.Random(seed)
    tasks = []
    for _ in range(count):
        a, b = rng.randint(low, high), rng.randint(low, high)
        word = rng.choice(list(WORDS))
        tasks.append({"question": f"What is {a} {word} {b}?", "answer": WORDS[word](a, b)})
    return tasks


def train_tasks(count: int = 256, *, seed: int = 0) -> list[dict]:
    """Return questions with numbers from 11 to 59."""
    return make_tasks(count, seed=seed, low=11, high=59)


def held_out_tasks(count: int = 32, *, seed: int = 1) -> list[dict]:
    """Return questions with numbers from 60 to 99, none of which is trained on."""
    return make_tasks(count, seed=seed, low=60, high=99)
