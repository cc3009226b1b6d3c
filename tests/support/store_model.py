"""The store as dicts and lists: what the contract says it does, in the plainest words.

Nothing of the store's own logic is used, so that a mistake would have to be made twice. Times
come from `now`, which the test sets; ids that a store makes are taken over from its results.
"""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]

ENDS = ("succeeded", "failed", "cancelled")
ATTEMPT_ENDS = ("succeeded", "failed", "timeout", "unresponsive")
WAITING = ("queuing", "requeuing")
ACTIVE = ("preparing", "running")
LATE = "agentlightning.late"
LOST_WORKERS = 3
"""Attempts beyond its own that a rollout gets because workers were lost."""
NO_CONFIG: Record = {
    "timeout_seconds": None,
    "unresponsive_seconds": None,
    "max_attempts": 1,
    "retry_condition": [],
}


class Refused(Exception):
    """The call is refused with this class of error, and changes nothing."""


class StoreModel:
    """Each method takes what the store's takes, and the ids that the store made."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.rollouts: dict[str, Record] = {}
        self.attempts: dict[str, list[Record]] = {}
        self.spans: dict[str, list[Record]] = {}
        self.counters: dict[str, int] = {}
        self.queue: list[str] = []
        self.workers: dict[str, Record] = {}
        self.resources: dict[str, list[Record]] = {}
        self.history: dict[str, list[str]] = {}
        """Every status that each rollout has had, in order."""

    # Rollouts.

    def new_rollout(self, rollout_id: str, status: str, **given: Any) -> Record:
        newest = self.newest_resources()
        pinned = given.get("resources_id") or (newest and newest["resources_id"])
        self.rollouts[rollout_id] = {
            "rollout_id": rollout_id,
            "input": given["input"],
            "start_time": self.now,
            "end_time": None,
            "mode": given.get("mode"),
            "resources_id": pinned,
            "status": status,
            "config": NO_CONFIG | (given.get("config") or {}),
            "metadata": given.get("metadata") or {},
        }
        self.attempts[rollout_id], self.spans[rollout_id] = [], []
        self.history[rollout_id] = [status]
        return self.rollouts[rollout_id]

    def enqueue(self, rollout_id: str, **given: Any) -> Record:
        if rollout_id not in self.rollouts:
            self.new_rollout(rollout_id, "queuing", **given)
            self.queue.append(rollout_id)
        return self.rollouts[rollout_id]

    def rollout(self, rollout_id: str) -> Record:
        if rollout_id not in self.rollouts:
            raise Refused("NotFoundError")
        return self.rollouts[rollout_id]

    def set_status(self, rollout: Record, status: str) -> None:
        if rollout["status"] != status:
            rollout["status"] = status
            rollout["end_time"] = self.now if status in ENDS else None
            self.history[rollout["rollout_id"]].append(status)
        if status in WAITING and rollout["rollout_id"] not in self.queue:
            self.queue.append(rollout["rollout_id"])

    def update_rollout(self, rollout_id: str, status: str | None, fields: Record) -> Record:
        rollout = self.rollout(rollout_id)
        if rollout["status"] in ENDS and status not in (None, rollout["status"]):
            raise Refused("InvalidTransitionError")
        changes = bool(fields) or status not in (None, rollout["status"])
        rollout.update(fields)
        if "config" in fields:
            rollout["config"] = NO_CONFIG | fields["config"]
        if status is not None:
            self.set_status(rollout, status)
        if changes and rollout["status"] not in ACTIVE:
            self.take_away(rollout)
        return rollout

    def take_away(self, rollout: Record) -> None:
        """End the attempt that is under way, since its rollout no longer is."""
        attempt = self.latest(rollout["rollout_id"])
        if attempt is None or attempt["status"] in ATTEMPT_ENDS:
            return
        succeeded = rollout["status"] == "succeeded"
        attempt.update(status="succeeded" if succeeded else "failed", end_time=self.now)
        if rollout["status"] not in ("succeeded", "failed"):
            outcome = "cancelled" if rollout["status"] == "cancelled" else "interrupted"
            attempt["metadata"] = {"outcome": outcome} | (attempt["metadata"] or {})
        self.release(attempt, "unknown")

    # Attempts.

    def latest(self, rollout_id: str) -> Record | None:
        attempts = self.attempts.get(rollout_id)
        return attempts[-1] if attempts else None

    def attempt(self, rollout_id: str, attempt_id: str) -> Record:
        self.rollout(rollout_id)
        for attempt in reversed(self.attempts[rollout_id]):
            if attempt_id in ("latest", attempt["attempt_id"]):
                return attempt
        raise Refused("NotFoundError")

    def start_attempt(
        self, rollout_id: str, attempt_id: str, worker_id: str | None, lease: float | None
    ) -> Record:
        rollout = self.rollout(rollout_id)
        for known in self.attempts[rollout_id]:
            if known["attempt_id"] == attempt_id:
                return known
        if rollout["status"] == "cancelled":
            raise Refused("InvalidTransitionError")
        newest = self.newest_resources()
        if rollout["resources_id"] is None and newest:
            rollout["resources_id"] = newest["resources_id"]
        overtaken = self.latest(rollout_id)
        if overtaken and overtaken["status"] not in ATTEMPT_ENDS:
            metadata = {"outcome": "interrupted"} | (overtaken["metadata"] or {})
            overtaken.update(status="failed", end_time=self.now, metadata=metadata)
            if overtaken["worker_id"] != worker_id:
                self.release(overtaken, "unknown")
        attempt: Record = {
            "rollout_id": rollout_id,
            "attempt_id": attempt_id,
            "sequence_id": len(self.attempts[rollout_id]) + 1,
            "start_time": self.now,
            "end_time": None,
            "status": "preparing",
            "worker_id": worker_id,
            "last_heartbeat_time": None,
            "metadata": None,
            "lease_seconds": lease,
        }
        self.attempts[rollout_id].append(attempt)
        self.set_status(rollout, "preparing")
        if worker_id:
            self.occupy(worker_id, attempt)
        return attempt

    def claim(
        self,
        limit: int,
        worker_id: str | None,
        attempt_ids: list[str],
        lease: float | None = None,
        metadata: Record | None = None,
    ) -> list[str]:
        """Take up to `limit` rollouts from the head, and return their ids."""
        claimed: list[str] = []
        for rollout_id in list(self.queue):
            rollout = self.rollouts[rollout_id]
            if len(claimed) >= limit:
                break
            if not (metadata or {}).items() <= rollout["metadata"].items():
                continue
            self.queue.remove(rollout_id)
            if rollout["status"] in WAITING:
                made = [*attempt_ids, *["missing"] * limit][len(claimed)]
                self.start_attempt(rollout_id, made, worker_id, lease)
                claimed.append(rollout_id)
        if worker_id and limit > 0:
            worker = self.worker(worker_id)
            if not claimed and not self.works(worker) and worker["status"] != "idle":
                self.free(worker, "idle")
            worker["last_dequeue_time"] = self.now
        return claimed

    def works(self, worker: Record) -> bool:
        for attempt in self.attempts.get(worker["current_rollout_id"], []):
            if attempt["attempt_id"] == worker["current_attempt_id"]:
                return attempt["status"] not in ATTEMPT_ENDS
        return False

    def is_held(self, attempt: Record) -> bool:
        return attempt["status"] not in ATTEMPT_ENDS and not self.fenced(attempt)

    def fenced(self, attempt: Record) -> bool:
        rollout = self.rollouts[attempt["rollout_id"]]
        latest = self.latest(attempt["rollout_id"]) is attempt
        return not latest or rollout["status"] not in ACTIVE

    def update_attempt(
        self, rollout_id: str, attempt_id: str, status: str | None, fields: Record
    ) -> Record:
        attempt = self.attempt(rollout_id, attempt_id)
        before, fenced = attempt["status"], self.fenced(attempt)
        if status == "preparing" and before == "running":
            raise Refused("InvalidTransitionError")
        if attempt["lease_seconds"] is not None and before not in ATTEMPT_ENDS:
            fields = {**fields, "last_heartbeat_time": self.now}
        attempt.update(fields)
        if status not in (None, before):
            self.move_attempt(attempt, str(status), fenced=fenced)
        if attempt["worker_id"] and ("worker_id" in fields or status is not None):
            if attempt["status"] in ATTEMPT_ENDS:
                self.release(attempt)
            elif not fenced:
                self.occupy(attempt["worker_id"], attempt)
        return attempt

    def move_attempt(
        self, attempt: Record, status: str, *, fenced: bool = False, most: int | None = None
    ) -> None:
        """Give an attempt a status; `most` attempts are made whatever the rollout wants."""
        if attempt["status"] in ATTEMPT_ENDS:
            attempt["metadata"] = {**(attempt["metadata"] or {}), "late_status": status}
            return
        attempt["status"] = status
        if status in ATTEMPT_ENDS:
            attempt["end_time"] = self.now
        if fenced:
            return
        rollout = self.rollouts[attempt["rollout_id"]]
        config = rollout["config"]
        if status in ("failed", "timeout", "unresponsive"):
            again = status in config["retry_condition"]
            again = again and attempt["sequence_id"] < config["max_attempts"]
            again = again or (most is not None and attempt["sequence_id"] < most)
            status = "requeuing" if again else "failed"
        self.set_status(rollout, status)

    def settle(self, rollout_id: str, attempt_id: str, status: str, result: Record) -> Record:
        attempt = self.attempt(rollout_id, attempt_id)
        metadata = attempt["metadata"] or {}
        if attempt["status"] in {"preparing", "running"}:
            metadata = {**metadata, **result}
        elif attempt["status"] == status:
            metadata = {**result, **metadata}
        self.update_attempt(rollout_id, attempt["attempt_id"], status, {"metadata": metadata})
        return self.rollouts[rollout_id]

    def lost(self) -> dict[str, str]:
        """Return the rollouts whose attempts have run out of time, and how."""
        found: dict[str, str] = {}
        for rollout_id, rollout in self.rollouts.items():
            attempt, config = self.latest(rollout_id), rollout["config"]
            if attempt is None or rollout["status"] not in ACTIVE:
                continue
            if attempt["status"] in ATTEMPT_ENDS:
                continue
            alive = attempt["last_heartbeat_time"] or attempt["start_time"]
            limits = (config["unresponsive_seconds"], attempt["lease_seconds"])
            limit = min((one for one in limits if one is not None), default=None)
            if limit is not None and self.now - alive > limit:
                found[rollout_id] = "unresponsive"
            limit = config["timeout_seconds"]
            if limit is not None and self.now - attempt["start_time"] > limit:
                found[rollout_id] = "timeout"
        return found

    def lose(self, rollout_id: str, status: str) -> None:
        attempt = self.attempts[rollout_id][-1]
        most = self.rollouts[rollout_id]["config"]["max_attempts"] + LOST_WORKERS
        alive = attempt["last_heartbeat_time"] or attempt["start_time"]
        gone = attempt["lease_seconds"] and self.now - alive > attempt["lease_seconds"]
        gone = gone and status == "unresponsive"
        self.move_attempt(attempt, status, most=most if gone else None)
        self.release(attempt)

    # Spans.

    def add_spans(self, spans: list[Record]) -> list[Record]:
        owners = {(span["rollout_id"], span["attempt_id"]): None for span in spans}
        late: set[tuple[str, str]] = set()
        for owner in owners:
            self.attempt(*owner)
        for owner in owners:
            attempt = self.attempt(*owner)
            if self.fenced(attempt) or attempt["status"] in ATTEMPT_ENDS:
                late.add(owner)
            if attempt["status"] not in ATTEMPT_ENDS:
                attempt["last_heartbeat_time"] = self.now
            if owner not in late:
                attempt["status"] = "running"
                self.set_status(self.rollouts[owner[0]], "running")
        stored: list[Record] = []
        for span in spans:
            kept = self.spans[span["rollout_id"]]
            key = (span["attempt_id"], span["span_id"])
            if key in [(other["attempt_id"], other["span_id"]) for other in kept]:
                continue
            number = self.next_number(span["rollout_id"], span["sequence_id"])
            new = {**span, "sequence_id": number}
            if (span["rollout_id"], span["attempt_id"]) in late:
                new["attributes"] = {**span["attributes"], LATE: True}
            kept.append(new)
            stored.append(new)
        return stored

    def next_number(self, rollout_id: str, given: int = 0) -> int:
        highest = self.counters.get(rollout_id, 0)
        number = given or highest + 1
        self.counters[rollout_id] = max(highest, number)
        return number

    # Workers.

    def worker(self, worker_id: str) -> Record:
        times = ("heartbeat", "dequeue", "busy", "idle")
        fresh: Record = {f"last_{name}_time": None for name in times}
        names = ("heartbeat_stats", "current_rollout_id", "current_attempt_id")
        fresh |= {"worker_id": worker_id, "status": "unknown", **dict.fromkeys(names)}
        return self.workers.setdefault(worker_id, fresh)

    def free(self, worker: Record, status: str) -> None:
        worker.update(status=status, last_idle_time=self.now)
        worker.update(current_rollout_id=None, current_attempt_id=None)

    def occupy(self, worker_id: str, attempt: Record) -> None:
        ids = {f"current_{name}": attempt[name] for name in ("rollout_id", "attempt_id")}
        self.worker(worker_id).update(status="busy", last_busy_time=self.now, **ids)

    def release(self, attempt: Record, status: str = "idle") -> None:
        if attempt["worker_id"]:
            current = self.workers.get(attempt["worker_id"], {}).get("current_attempt_id")
            if current in (None, attempt["attempt_id"]):
                lost = attempt["status"] in ("timeout", "unresponsive")
                self.free(self.worker(attempt["worker_id"]), "unknown" if lost else status)

    def heartbeat(self, worker_id: str, stats: Record | None) -> Record:
        worker = self.worker(worker_id)
        worker["last_heartbeat_time"] = self.now
        if stats is not None:
            worker["heartbeat_stats"] = stats
        return worker

    # Resources.

    def newest_resources(self) -> Record | None:
        versions = [version for many in self.resources.values() for version in many]
        return max(versions, key=lambda version: version["update_time"], default=None)

    def publish(self, made: Record) -> None:
        """Take over a snapshot that the store made, if it is the one that must follow."""
        versions = self.resources.get(made["resources_id"], [])
        newest = self.newest_resources()
        assert made["version"] == len(versions) + 1
        assert made["update_time"] >= self.now
        assert newest is None or made["update_time"] > newest["update_time"]
        first = versions[0] if versions else made
        assert made["create_time"] == first["create_time"]
        self.resources[made["resources_id"]] = [*versions, made]
