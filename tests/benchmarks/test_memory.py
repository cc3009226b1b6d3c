"""A long run keeps nothing from step to step."""

from benchmarks.memory import long_loop


def test_memory_does_not_grow_with_steps():
    """Sampling and training a tiny model with rows of changing lengths stays within a few MiB."""
    seen = dict(long_loop(200))
    # Why from step 40: allocators and thread pools warm up first.
    assert seen[200] - seen[40] < 12
