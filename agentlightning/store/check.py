"""Looking for inconsistencies in any store, and repairing those whose repair loses nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agentlightning._internal.clock import now
from agentlightning.store.base import is_running
from agentlightning.store.collections.codec import encode
from agentlightning.store.faults import Finding, find_faults
from agentlightning.store.inventory import Inventory, take_inventory
from agentlightning.store.lifecycle import is_ended, rollout_status_after
from agentlightning.store.record import replace
from agentlightning.types import AttemptedRollout, Rollout

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["CheckReport", "Finding", "check_store"]

GRACE_SECONDS: Final = 3600.0


@dataclass(slots=True)
class CheckReport:
    """What a check found."""

    findings: list[Finding] = field(default_factory=list[Finding])
    """What is wrong now, after repairs."""
    repaired: list[Finding] = field(default_factory=list[Finding])
    """What was wrong, and is not any more."""
    rollouts: int = 0
    attempts: int = 0

    @property
    def is_sound(self) -> bool:
        """Return whether nothing serious is wrong."""
        return not any(finding.serious for finding in self.findings)


async def check_store(
    store: LightningStore, *, repair: bool = False, grace_seconds: float = GRACE_SECONDS
) -> CheckReport:
    """Look through a whole store.

    The store may be in use: what is found is looked at a second time, and only what both looks
    show is reported.

    Args:
        store: What to look through.
        repair: Repair what can be without losing anything.
        grace_seconds: Silence after which an open attempt of an ended rollout may be ended.
    """
    inventory = await take_inventory(store)
    findings = find_faults(inventory, now=now(), grace_seconds=grace_seconds)
    report = CheckReport(rollouts=len(inventory.rollouts), attempts=len(inventory.attempts))
    if not findings:
        return report
    inventory = await take_inventory(store)
    findings = await _confirmed(inventory, findings, grace_seconds)
    tried = await _repair(store, findings, inventory) if repair else []
    if tried:
        after = find_faults(await take_inventory(store), now=now(), grace_seconds=grace_seconds)
        left = {finding.key for finding in after}
        report.repaired = [finding for finding in tried if finding.key not in left]
    gone = {finding.key for finding in report.repaired}
    report.findings = [finding for finding in findings if finding.key not in gone]
    return report


async def _confirmed(
    inventory: Inventory, findings: list[Finding], grace_seconds: float
) -> list[Finding]:
    keys = {finding.key for finding in findings}
    again = find_faults(inventory, now=now(), grace_seconds=grace_seconds)
    return [finding for finding in again if finding.key in keys]


async def _repair(
    store: LightningStore, findings: list[Finding], inventory: Inventory
) -> list[Finding]:
    return [
        finding
        for finding in findings
        if finding.repairable and await _REPAIRS[finding.code](store, finding, inventory)
    ]


# Repairs: each looks at the record once more, because the store may be in use, and returns
# whether it did something.


async def _queue(store: LightningStore, finding: Finding, _: Inventory) -> bool:
    # If somebody claims it right now, the id in the queue is stale and passed over.
    (rollout_id,) = finding.subject
    return bool(await store.import_records("queue", [_text(rollout_id=rollout_id)]))


async def _settle(store: LightningStore, finding: Finding, _: Inventory) -> bool:
    (rollout_id,) = finding.subject
    rollout = await store.get_rollout_by_id(rollout_id)
    if rollout is None or not is_running(rollout):
        return False
    if not isinstance(rollout, AttemptedRollout):
        await store.update_rollout(rollout_id, status="requeuing")
        return True
    if not is_ended(rollout.attempt):
        return False
    await store.update_rollout(rollout_id, status=rollout_status_after(rollout, rollout.attempt))
    return True


async def _end_attempt(store: LightningStore, finding: Finding, _: Inventory) -> bool:
    rollout_id, attempt_id = finding.subject
    await store.update_attempt(rollout_id, attempt_id, status="unresponsive")
    return True


async def _rollout_end(store: LightningStore, finding: Finding, inventory: Inventory) -> bool:
    (rollout_id,) = finding.subject
    found = await store.get_rollout_by_id(rollout_id)
    if found is None:
        return False
    fields = {name: getattr(found, name) for name in Rollout.model_fields}
    rollout = Rollout.model_construct(**fields)
    end: float | None = None
    if rollout.status in {"succeeded", "failed", "cancelled"}:
        heard = [
            each.end_time or each.alive_time for each in inventory.rollouts[rollout_id].attempts
        ]
        end = max(heard, default=rollout.start_time)
    return bool(await store.import_records("rollouts", [encode(replace(rollout, end_time=end))]))


async def _attempt_end(store: LightningStore, finding: Finding, _: Inventory) -> bool:
    rollout_id, attempt_id = finding.subject
    for attempt in await store.query_attempts(rollout_id):
        if attempt.attempt_id == attempt_id:
            end = (attempt.last_heartbeat_time or attempt.start_time) if is_ended(attempt) else None
            text = encode(replace(attempt, end_time=end))
            return bool(await store.import_records("attempts", [text]))
    return False


async def _free_worker(store: LightningStore, finding: Finding, _: Inventory) -> bool:
    (worker_id,) = finding.subject
    worker = await store.get_worker_by_id(worker_id)
    if worker is None or worker.current_rollout_id is None:
        return False
    attempts = await store.query_attempts(worker.current_rollout_id)
    for attempt in attempts:
        if attempt.attempt_id == worker.current_attempt_id and not is_ended(attempt):
            return False
    idle = replace(
        worker,
        status="idle",
        last_idle_time=now(),
        current_rollout_id=None,
        current_attempt_id=None,
    )
    return bool(await store.import_records("workers", [encode(idle)]))


async def _raise_counter(store: LightningStore, finding: Finding, inventory: Inventory) -> bool:
    (rollout_id,) = finding.subject
    highest = inventory.rollouts[rollout_id].highest
    text = _text(rollout_id=rollout_id, value=highest)
    return bool(await store.import_records("sequence_ids", [text]))


_REPAIRS: Final[dict[str, Callable[[LightningStore, Finding, Inventory], Awaitable[bool]]]] = {
    "not_in_line": _queue,
    "no_open_attempt": _settle,
    "open_attempt": _end_attempt,
    "rollout_end_time": _rollout_end,
    "attempt_end_time": _attempt_end,
    "worker_busy_in_vain": _free_worker,
    "sequence_counter_low": _raise_counter,
}


def _text(**fields: str | int) -> str:
    """Return a record of a kind that has no model."""
    return json.dumps(fields, separators=(",", ":"))
