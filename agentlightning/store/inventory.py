"""What a check needs to know of every record of a store, and no more: states, times and references.

Read through `export_records`, so any store can be looked at, wherever it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentlightning.store.collections.kinds import BackendFault
from agentlightning.store.transfer import COPY_KIND, FAULT_KIND, read_records
from agentlightning.types import AttemptStatus, RolloutStatus

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = ["AttemptFacts", "Inventory", "RolloutFacts", "WorkerFacts", "take_inventory"]


@dataclass(slots=True)
class AttemptFacts:
    """An attempt without its data."""

    rollout_id: str
    attempt_id: str
    sequence_id: int
    status: AttemptStatus
    end_time: float | None
    alive_time: float
    """When it was last heard of, in unix seconds."""


@dataclass(slots=True)
class RolloutFacts:
    """A rollout without its data, and its attempts."""

    status: RolloutStatus
    end_time: float | None
    resources_id: str | None
    attempts: list[AttemptFacts] = field(default_factory=list[AttemptFacts])
    highest: int = 0
    """The highest sequence id of its spans."""

    def latest(self) -> AttemptFacts | None:
        """Return the attempt that decides."""
        return max(self.attempts, key=lambda attempt: attempt.sequence_id, default=None)


@dataclass(slots=True)
class WorkerFacts:
    """What a worker says that it does."""

    worker_id: str
    status: str
    rollout_id: str | None
    attempt_id: str | None


@dataclass(slots=True)
class Inventory:
    """The state of a whole store; takes about 500 bytes for each rollout."""

    rollouts: dict[str, RolloutFacts] = field(default_factory=dict[str, RolloutFacts])
    attempts: dict[tuple[str, str], AttemptFacts] = field(
        default_factory=dict[tuple[str, str], AttemptFacts]
    )
    line: list[str] = field(default_factory=list[str])
    resources: set[str] = field(default_factory=set[str])
    """Ids, and those of their versions."""
    workers: list[WorkerFacts] = field(default_factory=list[WorkerFacts])
    counters: dict[str, int] = field(default_factory=dict[str, int])
    ownerless_spans: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """How many spans there are of attempts that do not exist."""
    unfinished_copy: bool = False
    backend: list[BackendFault] = field(default_factory=list[BackendFault])
    """What the backend itself finds."""


async def take_inventory(store: LightningStore) -> Inventory:
    """Read through a store; spans are read whole, which is what takes time."""
    found = Inventory()
    found.unfinished_copy = bool((await store.export_records(COPY_KIND)).records)
    async for each in _records(store, FAULT_KIND):
        fault = BackendFault(
            each["code"],
            tuple(each["subject"]),
            each["text"],
            serious=each["serious"],
            repairable=each["repairable"],
        )
        found.backend.append(fault)
    for kind in ("resources", "resource_versions"):
        async for each in _records(store, kind):
            found.resources |= {
                each["resources_id"],
                f"{each['resources_id']}@{each['version']}",
            }
    async for each in _records(store, "workers"):
        worker = WorkerFacts(
            each["worker_id"],
            each["status"],
            each["current_rollout_id"],
            each["current_attempt_id"],
        )
        found.workers.append(worker)
    # In this order, whoever is claimed or ends meanwhile is seen in its later state.
    async for each in _records(store, "rollouts"):
        found.rollouts[each["rollout_id"]] = RolloutFacts(
            each["status"], each["end_time"], each["resources_id"]
        )
    async for each in _records(store, "queue"):
        found.line.append(each["rollout_id"])
    await _read_attempts(store, found)
    await _read_spans(store, found)
    async for each in _records(store, "sequence_ids"):
        found.counters[each["rollout_id"]] = each["value"]
    return found


async def _read_attempts(store: LightningStore, found: Inventory) -> None:
    async for each in _records(store, "attempts"):
        attempt = AttemptFacts(
            each["rollout_id"],
            each["attempt_id"],
            each["sequence_id"],
            each["status"],
            each["end_time"],
            each["last_heartbeat_time"] or each["start_time"],
        )
        found.attempts[attempt.rollout_id, attempt.attempt_id] = attempt
        owner = found.rollouts.get(attempt.rollout_id)
        if owner is not None:
            owner.attempts.append(attempt)


async def _read_spans(store: LightningStore, found: Inventory) -> None:
    if any(fault.code == "contents_missing" for fault in found.backend):
        # They cannot be read, and what is said about them is enough.
        return
    async for each in _records(store, "spans"):
        key = (each["rollout_id"], each["attempt_id"])
        if key not in found.attempts:
            found.ownerless_spans[key] += 1
        owner = found.rollouts.get(key[0])
        if owner is not None:
            owner.highest = max(owner.highest, each["sequence_id"])


async def _records(store: LightningStore, kind: str) -> AsyncIterator[dict[str, Any]]:
    async for records in read_records(store, kind):
        for text in records:
            yield json.loads(text)
