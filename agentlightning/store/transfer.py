"""Moving a whole store: records as text, kind by kind, and the copy of one store into another.

Any store that can export and import takes part, wherever it is. What is not moved is the log of
events: it begins anew in the target, with one event for each rollout, snapshot and worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from agentlightning.errors import ConflictError, StoreError
from agentlightning.store.fingerprint import Fingerprint, Sighting

if TYPE_CHECKING:
    from agentlightning.store.base import LightningStore

__all__ = [
    "COPY_KIND",
    "FAULT_KIND",
    "KINDS",
    "CopyReport",
    "RecordKind",
    "RecordPage",
    "copy_store",
    "read_records",
]

RecordKind = Literal[
    "resources",
    "resource_versions",
    "rollouts",
    "attempts",
    "spans",
    "sequence_ids",
    "workers",
    "queue",
]
KINDS: Final[tuple[RecordKind, ...]] = get_args(RecordKind)
"""What a store consists of, in the order in which it is copied: what is claimed comes last."""

COPY_KIND: Final = "copy"
"""A kind besides: at most one record, `{"source": number}`, while a copy into the store is
unfinished."""

FAULT_KIND: Final = "faults"
"""A kind besides: what a backend finds wrong with what it keeps beside the records. Importing any
of them mends those that can be mended."""

PAGE_BYTES: Final = 4 * 1024 * 1024
"""Text after which a page ends, whatever its limit."""

Progress = Callable[[str, int], None]
"""Called with a phase, such as `spans`, and how many records of it are done."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Some records of one kind, in order of insertion."""

    kind: str
    records: list[str]
    """Each record as one JSON text, in which NaN and infinities are spelled out: what is read
    from it equals what is stored."""
    next: str | None
    """Where the following page begins; None after the last. A page before it may be empty."""


@dataclass(slots=True)
class CopyReport:
    """What a copy did."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    """Records of each kind in the source."""
    written: dict[str, int] = field(default_factory=dict[str, int])
    """How many of them the target did not have yet, or had otherwise."""
    fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    """Hash of each kind's records and their order."""
    resumed: bool = False
    """An interrupted copy was finished."""
    merged: bool = False
    """The target held other records before."""


async def read_records(store: LightningStore, kind: str) -> AsyncIterator[list[str]]:
    """Yield all records of a kind, a page at a time; pages are not empty."""
    after: str | None = None
    while True:
        page = await store.export_records(kind, after=after)
        if page.records:
            yield page.records
        if page.next is None:
            return
        after = page.next


def _mark(name: str) -> int:
    """Return a number for a source, which fits into a counter of any database."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1 or 1


async def copy_store(
    source: LightningStore,
    target: LightningStore,
    *,
    merge: bool = False,
    name: str = "",
    progress: Progress | None = None,
) -> CopyReport:
    """Copy everything that a store holds into another one, and compare the two.

    Nobody should write to the source meanwhile: records are read kind by kind, not at one moment.
    A copy that was interrupted is finished by calling this again. What it had written is looked
    at but not written twice.

    Args:
        source: Where to read; it is not changed.
        target: Where to write; empty, unless an earlier copy of the same source was interrupted.
        merge: Take a target that holds something. A record with the id of one in the source is
            replaced by it (spans are not: they never change); everything else stays.
        name: Tells sources apart, so that a target is not finished with another one's records.
        progress: Is told how far the copy has come.

    Raises:
        ConflictError: The target holds something.
        StoreError: The target does not hold what was read from the source; it stays marked as
            unfinished.
    """
    report = CopyReport()
    mark = _mark(name)
    await _admit(target, mark, report, merge=merge)
    seen: dict[RecordKind, Fingerprint | Sighting] = {
        kind: Sighting() if report.merged else Fingerprint() for kind in KINDS
    }
    await target.import_records(COPY_KIND, [f'{{"source":{mark}}}'])
    for kind in KINDS:
        written = 0
        async for records in read_records(source, kind):
            seen[kind].add(kind, records)
            written += await target.import_records(kind, records)
            if progress is not None:
                progress(kind, seen[kind].count)
        report.counts[kind], report.written[kind] = seen[kind].count, written
        report.fingerprints[kind] = seen[kind].hex()
    await _verify(target, seen, progress)
    await target.import_records(COPY_KIND, ['{"source":0}'])
    return report


async def _admit(target: LightningStore, mark: int, report: CopyReport, *, merge: bool) -> None:
    """Note in what state the target is, and refuse one that must not be written to."""
    unfinished = (await target.export_records(COPY_KIND)).records
    if unfinished == [f'{{"source":{mark}}}']:
        report.resumed = True
        report.merged = merge
        return
    if unfinished and not merge:
        raise ConflictError(
            "The target holds an unfinished copy of another source; finish that one, choose an "
            "empty target, or merge into it."
        )
    for kind in KINDS:
        if (await target.export_records(kind, limit=1)).records:
            if not merge:
                raise ConflictError(
                    f"The target holds {kind} already; choose an empty one, or merge into it."
                )
            report.merged = True


async def _verify(
    target: LightningStore,
    seen: dict[RecordKind, Fingerprint | Sighting],
    progress: Progress | None,
) -> None:
    """Compare what the target holds with what was read from the source."""
    for kind, expected in seen.items():
        found = expected.fresh()
        async for records in read_records(target, kind):
            found.add(kind, records)
            if progress is not None:
                progress(f"verifying {kind}", found.count)
        difference = expected.difference(found)
        if difference is not None:
            raise StoreError(
                f"The copy's {kind} are not those of the source: {difference}. If nobody wrote to "
                "either store meanwhile, run the copy again; else do so with merging."
            )
