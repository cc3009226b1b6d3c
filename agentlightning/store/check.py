"""Looking for inconsistencies in any store, and repairing those whose repair loses nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agentlightning._internal.clock import now
from agentlightning.store.base import is_running
from agentlightning.store.faults import Finding, find_faults
from agentlightning.store.inventory import Inventory, take_inventory
from agentlightning.store.lifecycle import OUTCOME_KEY, is_ended, rollout_status_after
from agentlightning.store.transfer import FAULT_KIND, read_records
from agentlightning.types import AttemptedRollout, RolloutStatus

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


@dataclass(frozen=True, slots=True)
class _Case:
    """What a repair works with."""

    store: LightningStore
    finding: Finding
    inventory: Inventory
    record: dict[str, Any]
    """The record itself, where the repair writes it anew."""

    def text(self, **changes: Any) -> str:
        """Return the record with some fields changed."""
        return json.dumps({**self.record, **changes}, separators=(",", ":"))


async def _repair(
    store: LightningStore, findings: list[Finding], inventory: Inventory
) -> list[Finding]:
    """Repair what can be; return those findings with which something was done."""
    tried: list[Finding] = []
    records: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for finding in findings:
        if not finding.repairable:
            continue
        kind = _REWRITES.get(finding.code)
        if kind is not None and kind not in records:
            records[kind] = await _records(store, kind, findings)
        record = records[kind].get(finding.subject, {}) if kind is not None else {}
        if (record or kind is None) and await _REPAIRS[finding.code](
            _Case(store, finding, inventory, record)
        ):
            tried.append(finding)
    return tried


async def _records(
    store: LightningStore, kind: str, findings: list[Finding]
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the records that findings are about. They are read as text, because other ways of
    reading do not keep all values from everywhere.
    """
    wanted = {finding.subject for finding in findings if _REWRITES.get(finding.code) == kind}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    async for texts in read_records(store, kind):
        for fields in map(json.loads, texts):
            subject = tuple(fields[name] for name in _KEYS[kind])
            if subject in wanted:
                found[subject] = fields
    return found


# Each repair looks at the record once more where somebody may have changed it, because the store
# may be in use, and returns whether it did something.


async def _queue(case: _Case) -> bool:
    # If somebody claims it right now, the id in the queue is stale and passed over.
    (rollout_id,) = case.finding.subject
    return bool(await case.store.import_records("queue", [case.text(rollout_id=rollout_id)]))


async def _settle(case: _Case) -> bool:
    (rollout_id,) = case.finding.subject
    rollout = await case.store.get_rollout_by_id(rollout_id)
    if rollout is None or not is_running(rollout):
        return False
    status: RolloutStatus = "requeuing"
    if isinstance(rollout, AttemptedRollout):
        if not is_ended(rollout.attempt):
            return False
        status = rollout_status_after(rollout, rollout.attempt)
    await case.store.update_rollout(rollout_id, status=status)
    return True


async def _end_attempt(case: _Case) -> bool:
    rollout_id, attempt_id = case.finding.subject
    attempts = await case.store.query_attempts(rollout_id)
    attempt = next((each for each in attempts if each.attempt_id == attempt_id), None)
    if attempt is None or is_ended(attempt):
        return False
    if attempt.sequence_id == max(each.sequence_id for each in attempts):
        await case.store.update_attempt(rollout_id, attempt_id, status="unresponsive")
    else:
        metadata = {OUTCOME_KEY: "interrupted", **(attempt.metadata or {})}
        await case.store.update_attempt(rollout_id, attempt_id, "failed", metadata=metadata)
    return True


async def _rollout_end(case: _Case) -> bool:
    end: float | None = None
    if case.record["status"] in {"succeeded", "failed", "cancelled"}:
        (rollout_id,) = case.finding.subject
        attempts = case.inventory.rollouts[rollout_id].attempts
        heard = [attempt.end_time or attempt.alive_time for attempt in attempts]
        end = max(heard, default=case.record["start_time"])
    return bool(await case.store.import_records("rollouts", [case.text(end_time=end)]))


async def _attempt_end(case: _Case) -> bool:
    end: float | None = None
    if case.record["status"] not in {"preparing", "running"}:
        end = case.record["last_heartbeat_time"] or case.record["start_time"]
    return bool(await case.store.import_records("attempts", [case.text(end_time=end)]))


async def _free_worker(case: _Case) -> bool:
    (worker_id,) = case.finding.subject
    worker = await case.store.get_worker_by_id(worker_id)
    if worker is None or worker.current_attempt_id != case.record["current_attempt_id"]:
        return False
    text = case.text(
        status="idle", last_idle_time=now(), current_rollout_id=None, current_attempt_id=None
    )
    return bool(await case.store.import_records("workers", [text]))


async def _raise_counter(case: _Case) -> bool:
    (rollout_id,) = case.finding.subject
    text = case.text(rollout_id=rollout_id, value=case.inventory.rollouts[rollout_id].highest)
    return bool(await case.store.import_records("sequence_ids", [text]))


async def _mend(case: _Case) -> bool:
    await case.store.import_records(FAULT_KIND, [case.text(code=case.finding.code)])
    return True


_REPAIRS: Final[dict[str, Callable[[_Case], Awaitable[bool]]]] = {
    "not_in_line": _queue,
    "no_open_attempt": _settle,
    "open_attempt": _end_attempt,
    "rollout_end_time": _rollout_end,
    "attempt_end_time": _attempt_end,
    "worker_busy_in_vain": _free_worker,
    "sequence_counter_low": _raise_counter,
    "contents_unused": _mend,
    "contents_held": _mend,
}
_REWRITES: Final = {
    "rollout_end_time": "rollouts",
    "attempt_end_time": "attempts",
    "worker_busy_in_vain": "workers",
}
"""Repairs that write the record anew, and its kind."""
_KEYS: Final = {
    "rollouts": ("rollout_id",),
    "attempts": ("rollout_id", "attempt_id"),
    "workers": ("worker_id",),
}
