"""One atomic block: what it has read, what it wants written, and the commit of both.

Reads come from the server as they are asked for. Nothing is written before the commit, which
succeeds only if nothing that was read has changed since. A block sees its own writes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from agentlightning.store.collections.base import DuplicatedPrimaryKeyError
from agentlightning.store.collections.changes import Reply
from agentlightning.store.collections.codec import encode
from agentlightning.store.collections.redis import scripts
from agentlightning.store.collections.redis.layout import (
    ATTEMPTS,
    ROLLOUTS,
    Stored,
    Table,
    entry,
    split_entry,
    text,
)
from agentlightning.store.collections.redis.program import (
    COMMIT_SECONDS,
    KEPT_EVENTS,
    Check,
    Program,
)
from agentlightning.store.collections.redis.server import RedisServer
from agentlightning.types import Rollout, StoreEvent

M = TypeVar("M", bound=BaseModel)

BATCH: Final = 500
"""Records per command, so that other clients get their turn in between."""


class ChangedMeanwhileError(Exception):
    """Something that the block had read was changed before it committed."""


class Session:
    """The state of one block; used by one task at a time.

    Args:
        server: Where everything is.
        tracks: The block may write, so what it reads is remembered and checked.
    """

    def __init__(self, server: RedisServer, *, tracks: bool) -> None:
        self.server = server
        self.tracks = tracks
        self.program = Program()
        self.counters: dict[str, int | None] = {}
        self.queue_entries: dict[str, str] = {}
        """Ids that `find_queued` gave, in order, with their entries."""
        self._known: dict[tuple[str, str], Stored[Any] | None] = {}
        self._assumed: set[Check] = set()
        self._reserved: dict[str, None] = {}
        self.queue_cursor = 0
        """The ordinal up to which `find_queued` has looked."""

    # Records.

    def check(self, *check: str, is_still: str | None = None) -> None:
        """Let the commit depend on something being still as it was read."""
        if self.tracks:
            self.program.checks.setdefault(check, is_still)

    def remember(self, table: Table[M], key: str, raw: bytes | None) -> None:
        """Keep a record that was read, without letting the commit depend on it yet."""
        slot = (table.name, key)
        if slot not in self._known:
            self._known[slot] = None if raw is None else table.parse(raw)

    async def read(self, table: Table[M], keys: Sequence[str]) -> list[Stored[M] | None]:
        """Return records by their keys, as this block sees them."""
        missing = [key for key in dict.fromkeys(keys) if (table.name, key) not in self._known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            name = self.server.base + table.name
            if len(batch) == 1:
                raws: Any = [await self.server.command("HGET", name, batch[0])]
            else:
                raws = await self.server.command("HMGET", name, *batch)
            for key, raw in zip(batch, raws, strict=True):
                self.remember(table, key, raw)
        return [self._seen(table, key) for key in keys]

    def _seen(self, table: Table[M], key: str) -> Stored[M] | None:
        slot = (table.name, key)
        stored = self._known[slot]
        self.check("V", *slot, is_still="" if stored is None else str(stored.version))
        if slot not in self.program.records:
            return stored
        record = self.program.records[slot]
        if record is None:
            return None
        # A record that has no place yet comes after all that have, in order of writing.
        place = self.program.place(slot) if stored is None else stored.ordinal
        return Stored(0, place, record)

    async def revision(self, table: str) -> None:
        """Let the commit depend on nobody writing into a table; ask before looking at it."""
        if self.tracks and ("R", table) not in self.program.checks:
            raw = await self.server.command("HGET", self.server.base + "meta", f"rev:{table}")
            self.check("R", table, is_still="0" if raw is None else raw.decode())

    def own(self, table: Table[M]) -> dict[str, M | None]:
        """Return what this block has changed in a table; None for what it removed."""
        records = self.program.records
        return {key: record for (name, key), record in records.items() if name == table.name}

    def growth(self, table: Table[M]) -> int:
        """Return how many records more than before a table has by this block."""
        return sum(
            (record is not None) - (self._known[table.name, key] is not None)
            for key, record in self.own(table).items()
        )

    def put(self, table: Table[M], key: str, record: M) -> None:
        """Write a record whose key was read, or assumed to be free."""
        stored = self._known[table.name, key]
        ordinal = "" if stored is None else f"{stored.ordinal:016d}"
        before = None if stored is None else table.indexes(stored.record)
        self.program.put(table, key, record, ordinal, before)

    def remove(self, table: Table[M], key: str) -> None:
        """Remove a record that was read."""
        stored = self._known[table.name, key]
        if stored is None:
            self.program.forget(table.name, key)
        else:
            indexes = table.indexes(stored.record)
            self.program.remove(table.name, key, f"{stored.ordinal:016d}", indexes)

    def assume_free(self, table: Table[M], keys: Iterable[str]) -> None:
        """Take keys to be free without looking; the commit fails where they are not.

        Raises:
            DuplicatedPrimaryKeyError: The block knows better.
        """
        for key in keys:
            slot = (table.name, key)
            if self._known.setdefault(slot, None) is not None or slot in self.program.records:
                raise duplicate(table, key)
            check = ("V", *slot)
            if check not in self.program.checks:
                self._assumed.add(check)
                self.check(*check, is_still="")

    # Rollouts, with what is wanted next.

    async def find_rollouts(self, rollout_ids: Sequence[str]) -> None:
        """Read rollouts, and with them their latest attempts and counters."""
        unknown = [key for key in rollout_ids if (ROLLOUTS.name, key) not in self._known]
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            self.take_in(batch, await self.server.script(scripts.FIND, *batch))

    def take_in(self, rollout_ids: Sequence[str], rows: Sequence[Any]) -> None:
        """Keep what FIND found, without letting the commit depend on it yet."""
        for rollout_id, (rollout, latest, attempt, counter) in zip(rollout_ids, rows, strict=True):
            self.remember(ROLLOUTS, rollout_id, rollout)
            self.counters.setdefault(rollout_id, None if counter is None else int(counter))
            self._note_latest(rollout_id, latest, attempt)

    def _note_latest(self, rollout_id: str, latest: bytes, attempt: bytes | None) -> None:
        self.program.latest.setdefault(rollout_id, text(latest))
        if latest:
            self.remember(ATTEMPTS, split_entry(latest)[1], attempt)

    async def find_counters(self, rollout_ids: Sequence[str]) -> None:
        """Read counters, without letting the commit depend on them yet."""
        unknown = [key for key in rollout_ids if key not in self.counters]
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            name = self.server.base + "counters"
            raws = await self.server.command("HMGET", name, *batch)
            for key, raw in zip(batch, raws, strict=True):
                self.counters[key] = None if raw is None else int(raw)

    async def find_latest(self, rollout_ids: Sequence[str]) -> list[str]:
        """Return the keys of the rollouts' latest attempts, where there are any."""
        unknown = [key for key in rollout_ids if key not in self.program.latest]
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            rows = await self.server.script(scripts.LATEST, *batch)
            for rollout_id, (latest, attempt) in zip(batch, rows, strict=True):
                self._note_latest(rollout_id, latest, attempt)
        found: list[str] = []
        for rollout_id in rollout_ids:
            latest = self.program.latest[rollout_id]
            self.check("T", ATTEMPTS.owner_index(rollout_id), is_still=latest)
            if latest:
                found.append(latest[16:])
        return found

    async def find_top(self, table: Table[M], index: str) -> M | None:
        """Return the last record of an index."""
        latest, raw = await self.server.script(scripts.TOP, index, table.name)
        self.check("T", index, is_still=text(latest))
        if not latest:
            return None
        key = split_entry(latest)[1]
        self.remember(table, key, raw)
        stored = self._seen(table, key)
        return None if stored is None else stored.record

    async def find_missing(self, table: Table[M], keys: Sequence[str]) -> list[str]:
        """Return the keys that no record has, without reading the records."""
        missing: list[str] = []
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            raws = await self.server.command("HMGET", self.server.base + table.name, *batch)
            missing.extend(key for key, raw in zip(batch, raws, strict=True) if raw is None)
        for key in missing:
            self._known.setdefault((table.name, key), None)
            self.check("V", table.name, key, is_still="")
        return missing

    # The queue and its reservations.

    def reserve(self, rollout_ids: Iterable[str]) -> None:
        """Note that others leave these out until the block ends."""
        self._reserved.update(dict.fromkeys(rollout_ids))

    def peek_rollout(self, rollout_id: str) -> Rollout | None:
        """Return a rollout that was read, without letting the commit depend on it."""
        stored = self._known[ROLLOUTS.name, rollout_id]
        return None if stored is None else stored.record

    async def queue_entry(self, rollout_id: str) -> str | None:
        """Return the first entry of an id in the queue."""
        known = self.queue_entries.get(rollout_id)
        if known is None:
            raw = await self.server.command("HGET", self.server.base + "queued", rollout_id)
            known = None if raw is None else entry(int(raw.split()[0]), rollout_id)
        return known

    async def release(self) -> None:
        """Let others have what was reserved and not taken."""
        if self._reserved:
            await self.server.command("HDEL", self.server.base + "held", *self._reserved)
            self._reserved.clear()

    # The end.

    def keep_reply(self, reply: Reply) -> None:
        """Write an answer that a repeat of the call gets."""
        self.check("N", reply.key)
        self.program.reply = reply

    async def commit(self, writer: str) -> list[StoreEvent]:
        """Write everything, and return the events with their places in the journal.

        Raises:
            ChangedMeanwhileError: Something that the block had read has changed.
            DuplicatedPrimaryKeyError: A key that was assumed to be free is not.
        """
        program = self.program
        if program.is_empty():
            await self.release()
            return []
        for rollout_id in self._reserved:
            program.release(rollout_id)
        done, *reply = await self.server.script(
            scripts.COMMIT,
            secrets.token_hex(8),
            KEPT_EVENTS,
            COMMIT_SECONDS,
            program.build(encode, writer),
        )
        if not done:
            failed = list(program.checks)[reply[0] - 1]
            if failed in self._assumed:
                raise DuplicatedPrimaryKeyError(
                    f"{failed[2]!r} is in {failed[1]} already; update it instead."
                )
            raise ChangedMeanwhileError(*failed)
        self._reserved.clear()
        last = int(reply[1])
        for number, event in enumerate(program.events, last - len(program.events) + 1):
            event.seq = number
        return program.events


def duplicate(table: Table[Any], key: str) -> DuplicatedPrimaryKeyError:
    """Return the error for a key that is taken."""
    return DuplicatedPrimaryKeyError(
        f"{table.model.__name__} {key!r} is there already, or is given twice; update it instead."
    )
