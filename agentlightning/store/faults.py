"""What can be wrong with a store's records: rules over an inventory, as pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.store.inventory import AttemptFacts, Inventory

__all__ = ["Finding", "find_faults"]

_WAITING: Final = frozenset({"queuing", "requeuing"})
_ACTIVE: Final = frozenset({"preparing", "running"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    code: str
    """Which rule found it."""
    subject: tuple[str, ...]
    """The ids of the record that it is about."""
    text: str
    """What is wrong, and what follows from it."""
    serious: bool
    """Something is lost, stuck or false; other findings do no harm."""
    repairable: bool = False
    """There is a repair that loses nothing."""

    @property
    def key(self) -> tuple[str, ...]:
        """Return what the same finding has in a second look."""
        return (self.code, *self.subject)


def find_faults(inventory: Inventory, *, now: float, grace_seconds: float) -> list[Finding]:
    """Return everything that the rules find, in a fixed order.

    Args:
        inventory: The store.
        now: Unix seconds.
        grace_seconds: Silence after which an attempt whose rollout has ended may be ended too.
    """
    found: list[Finding] = []
    for rule in _RULES:
        found.extend(rule(inventory))
    found.extend(_open_attempts(inventory, now, grace_seconds))
    return found


def _copy(inventory: Inventory) -> Iterator[Finding]:
    if inventory.unfinished_copy:
        yield Finding(
            "unfinished_copy",
            (),
            "a copy into this store was interrupted, so records are missing; run it again",
            serious=True,
        )


def _backend(inventory: Inventory) -> Iterator[Finding]:
    for fault in inventory.backend:
        yield Finding(fault.code, fault.subject, fault.text, fault.serious, fault.repairable)


def _line(inventory: Inventory) -> Iterator[Finding]:
    in_line = set(inventory.line)
    for rollout_id, rollout in inventory.rollouts.items():
        if rollout.status in _WAITING and rollout_id not in in_line:
            yield Finding(
                "not_in_line",
                (rollout_id,),
                f"the rollout is {rollout.status} but not in the queue: nobody will ever claim it",
                serious=True,
                repairable=True,
            )
    for rollout_id, times in Counter(inventory.line).items():
        known = inventory.rollouts.get(rollout_id)
        if known is None or known.status not in _WAITING:
            status = "unknown" if known is None else known.status
            text = f"the queue holds this rollout, which is {status}; claims pass over it"
            yield Finding("stale_in_line", (rollout_id,), text, serious=False)
        elif times > 1:
            text = f"the rollout is in the queue {times} times; it is claimed once"
            yield Finding("twice_in_line", (rollout_id,), text, serious=False)


def _owners(inventory: Inventory) -> Iterator[Finding]:
    for key in inventory.attempts:
        if key[0] not in inventory.rollouts:
            text = "the attempt's rollout does not exist; nothing leads to it"
            yield Finding("attempt_without_rollout", key, text, serious=True)
    for key, count in inventory.ownerless_spans.items():
        text = f"{count} span(s) of an attempt that does not exist; nothing leads to them"
        yield Finding("spans_without_attempt", key, text, serious=True)


def _active(inventory: Inventory) -> Iterator[Finding]:
    for rollout_id, rollout in inventory.rollouts.items():
        latest = rollout.latest()
        if rollout.status not in _ACTIVE or (latest is not None and latest.status in _ACTIVE):
            continue
        state = "it has no attempt" if latest is None else f"its latest attempt {latest.status}"
        yield Finding(
            "no_open_attempt",
            (rollout_id,),
            f"the rollout is {rollout.status} but {state}: nobody works on it, and it never ends",
            serious=True,
            repairable=True,
        )


def _sequences(inventory: Inventory) -> Iterator[Finding]:
    for rollout_id, rollout in inventory.rollouts.items():
        numbers = sorted(attempt.sequence_id for attempt in rollout.attempts)
        if len(set(numbers)) < len(numbers):
            text = f"attempts share a sequence id ({numbers}): which one is the latest is chance"
            yield Finding("attempt_sequence_twice", (rollout_id,), text, serious=True)
        elif numbers and numbers != list(range(1, len(numbers) + 1)):
            text = f"attempts are numbered {numbers}: one is missing"
            yield Finding("attempt_sequence_gap", (rollout_id,), text, serious=False)


def _end_times(inventory: Inventory) -> Iterator[Finding]:
    rollouts = (
        ("rollout", (rollout_id,), rollout.status in _WAITING | _ACTIVE, rollout.end_time)
        for rollout_id, rollout in inventory.rollouts.items()
    )
    attempts = (
        ("attempt", key, attempt.status in _ACTIVE, attempt.end_time)
        for key, attempt in inventory.attempts.items()
    )
    for what, subject, is_open, end_time in (*rollouts, *attempts):
        if is_open != (end_time is None):
            state = "has not ended but has an end time" if is_open else "ended without an end time"
            text = f"the {what} {state}: durations and retention go wrong"
            yield Finding(f"{what}_end_time", subject, text, serious=True, repairable=True)


def _resources(inventory: Inventory) -> Iterator[Finding]:
    for rollout_id, rollout in inventory.rollouts.items():
        if rollout.resources_id is not None and rollout.resources_id not in inventory.resources:
            text = f"the rollout is pinned to resources {rollout.resources_id}, which are unknown"
            yield Finding("resources_unknown", (rollout_id,), text, serious=False)


def _workers(inventory: Inventory) -> Iterator[Finding]:
    for worker in inventory.workers:
        if worker.status != "busy" or worker.rollout_id is None or worker.attempt_id is None:
            continue
        attempt = inventory.attempts.get((worker.rollout_id, worker.attempt_id))
        if attempt is None or attempt.status not in _ACTIVE:
            status = "does not exist" if attempt is None else f"has ended ({attempt.status})"
            text = f"the worker is busy with attempt {worker.attempt_id}, which {status}"
            yield Finding(
                "worker_busy_in_vain", (worker.worker_id,), text, serious=False, repairable=True
            )


def _counters(inventory: Inventory) -> Iterator[Finding]:
    for rollout_id, rollout in inventory.rollouts.items():
        counter = inventory.counters.get(rollout_id, 0)
        if counter < rollout.highest:
            text = (
                f"the next span would be number {counter + 1}, but there is one with number "
                f"{rollout.highest}: new spans would sort before old ones"
            )
            yield Finding(
                "sequence_counter_low", (rollout_id,), text, serious=True, repairable=True
            )


_RULES: Final[Sequence[Callable[[Inventory], Iterator[Finding]]]] = (
    _copy,
    _backend,
    _line,
    _owners,
    _active,
    _sequences,
    _end_times,
    _resources,
    _workers,
    _counters,
)


def _open_attempts(inventory: Inventory, now: float, grace_seconds: float) -> Iterator[Finding]:
    for rollout_id, rollout in inventory.rollouts.items():
        latest = rollout.latest()
        for attempt in rollout.attempts:
            if attempt.status not in _ACTIVE:
                continue
            if rollout.status in _ACTIVE and attempt is latest:
                continue
            silent = now - attempt.alive_time
            # Who starts an attempt ends the one before: that it is open is an old version's doing.
            overtaken = attempt is not latest
            yield Finding(
                "open_attempt",
                (rollout_id, attempt.attempt_id),
                _why_open(rollout.status, attempt, latest, silent),
                serious=False,
                repairable=overtaken or silent > grace_seconds,
            )


def _why_open(
    status: str, attempt: AttemptFacts, latest: AttemptFacts | None, silent: float
) -> str:
    taken = f"its rollout is {status}" if attempt is latest else "another attempt replaced it"
    return (
        f"the attempt is {attempt.status} though {taken}, and silent for {silent:.0f} s: its "
        "runner was lost, or has yet to notice"
    )
