"""The rules of a check, on inventories made by hand."""

from collections import Counter

import pytest

from agentlightning.store.collections.kinds import BackendFault
from agentlightning.store.faults import find_faults
from agentlightning.store.inventory import AttemptFacts, Inventory, RolloutFacts, WorkerFacts


def attempt(rollout_id="r", attempt_id="a", sequence_id=1, status="failed", end=2.0, alive=1.0):
    return AttemptFacts(rollout_id, attempt_id, sequence_id, status, end, alive)


def inventory(rollout: RolloutFacts, *attempts: AttemptFacts, **fields) -> Inventory:
    rollout.attempts.extend(attempts)
    known = {(each.rollout_id, each.attempt_id): each for each in attempts}
    return Inventory(rollouts={"r": rollout}, attempts=known, **fields)


def codes(found: Inventory, now: float = 10_000.0) -> dict[str, bool]:
    """Return what was found, and whether it can be repaired."""
    return {each.code: each.repairable for each in find_faults(found, now=now, grace_seconds=3600)}


def test_nothing_is_wrong_with_nothing():
    """An empty store is sound."""
    assert codes(Inventory()) == {}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (inventory(RolloutFacts("queuing", None, None)), {"not_in_line": True}),
        (inventory(RolloutFacts("queuing", None, None), line=["r"]), {}),
        (inventory(RolloutFacts("requeuing", None, None), line=["r", "r"]), {"twice_in_line": False}),
        (Inventory(line=["x"]), {"stale_in_line": False}),
        (
            Inventory(attempts={("x", "a"): attempt("x")}),
            {"attempt_without_rollout": False},
        ),
        (
            Inventory(ownerless_spans=Counter({("x", "a"): 2})),
            {"spans_without_attempt": False},
        ),
        (
            inventory(RolloutFacts("queuing", 5.0, None), line=["r"]),
            {"rollout_end_time": True},
        ),
        (
            inventory(RolloutFacts("running", None, None), attempt(status="running")),
            {"attempt_end_time": True},
        ),
        (
            inventory(RolloutFacts("failed", 2.0, None), attempt(), attempt(attempt_id="b")),
            {"attempt_sequence_twice": False},
        ),
        (
            inventory(RolloutFacts("failed", 2.0, None, highest=3), attempt(), counters={"r": 2}),
            {"sequence_counter_low": True},
        ),
        (
            inventory(RolloutFacts("failed", 2.0, "rs@1"), resources={"rs", "rs@2"}),
            {"resources_unknown": False},
        ),
        (
            Inventory(workers=[WorkerFacts("w", "busy", "r", "a")]),
            {"worker_busy_in_vain": True},
        ),
        (Inventory(unfinished_copy=True), {"unfinished_copy": False}),
        (
            Inventory(backend=[BackendFault("odd", (), "odd", serious=True)]),
            {"odd": False},
        ),
    ],
)  # fmt: skip
def test_each_fault_has_its_code(found: Inventory, expected: dict[str, bool]):
    """One fault gives one finding, which says whether it can be repaired."""
    assert codes(found) == expected


def test_open_attempts_get_time_to_notice():
    """A cancelled rollout's runner may still be at it; only after an hour is it given up."""
    found = inventory(RolloutFacts("cancelled", 2.0, None), attempt(status="running", end=None))
    assert codes(found, now=3600.0) == {"open_attempt": False}
    assert codes(found, now=3602.0) == {"open_attempt": True}


def test_overtaken_attempts_need_no_time():
    """No present store leaves an attempt open that another one took the place of."""
    replaced = inventory(
        RolloutFacts("running", None, None),
        attempt(status="running", end=None),
        attempt(attempt_id="b", sequence_id=2, status="preparing", end=None),
    )
    assert codes(replaced, now=1.0) == {"open_attempt": True}
