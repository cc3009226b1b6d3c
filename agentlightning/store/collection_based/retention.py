"""Marking what was read, and removing what a policy no longer keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.store.base import is_finished
from agentlightning.store.collection_based.frame import StoreFrame, tracked
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.collections.filtering import has_pairs
from agentlightning.store.record import replace
from agentlightning.store.retention import (
    READ_KEY,
    SPANS_REMOVED_KEY,
    RetentionPolicy,
    RetentionReport,
    is_read,
)
from agentlightning.types import Rollout

logger = logging.getLogger(__name__)

_PAGE: Final = 1000
_AT_ONCE: Final = 100
"""Rollouts that are changed in one step, so that others get their turn in between."""
_SHOWN: Final = 1000


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the choice needs to know of an ended rollout."""

    rollout_id: str
    end_time: float
    read: bool
    empty: bool
    """Its spans were removed before."""


def _with_time(rollout: Rollout, key: str, time: float) -> Rollout:
    return replace(rollout, metadata={**(rollout.metadata or {}), key: time})


class RetentionMethods(StoreFrame):
    """`mark_read` and `apply_retention`."""

    _removed_spans: int

    @tracked
    async def mark_read(self, rollout_ids: Sequence[str]) -> int:
        unique = list(dict.fromkeys(rollout_ids))
        count = 0
        for start in range(0, len(unique), _AT_ONCE):
            batch = unique[start : start + _AT_ONCE]

            async def step(tx: Transaction, batch: Sequence[str] = batch) -> int:
                await tx.load(batch, attempts=False)
                marked = 0
                for rollout_id in batch:
                    rollout = await tx.find_rollout(rollout_id)
                    if rollout is not None and is_finished(rollout):
                        marked += 1
                        if not is_read(rollout):
                            tx.put_rollout(_with_time(rollout, READ_KEY, tx.now))
                return marked

            count += await self._write(step)
        return count

    @tracked
    async def apply_retention(
        self, policy: RetentionPolicy, *, dry_run: bool = False
    ) -> RetentionReport:
        ended, now = await self._ended(policy)
        report = RetentionReport(dry_run=dry_run)
        chosen = await self._choose(policy, ended, now, report)
        if dry_run:
            report.rollouts = len(chosen)
            report.rollout_ids = chosen[:_SHOWN]
            return report
        for start in range(0, len(chosen), _AT_ONCE):
            batch = chosen[start : start + _AT_ONCE]
            gone, spans = await self._remove(batch, spans_only=policy.what == "spans")
            report.rollouts += len(gone)
            report.spans += spans
            report.rollout_ids.extend(gone[: max(0, _SHOWN - len(report.rollout_ids))])
        self._removed_spans += report.spans
        logger.info(
            "retention policy applied",
            extra={"rollouts": report.rollouts, "spans": report.spans, "unread": report.unread},
        )
        return report

    async def _ended(self, policy: RetentionPolicy) -> tuple[list[_Ended], float]:
        """Return the ended rollouts that a policy is about, newest first, and the time."""
        found: list[_Ended] = []
        after: str | None = None
        while True:

            async def step(
                tx: Transaction, after: str | None = after
            ) -> tuple[Sequence[tuple[str, Rollout]], float]:
                return await tx.rows.rollouts.scan(after, _PAGE), tx.now

            page, now = await self._read(step, ("rollouts",))
            found.extend(
                _Ended(
                    rollout.rollout_id,
                    rollout.end_time or rollout.start_time,
                    is_read(rollout),
                    SPANS_REMOVED_KEY in (rollout.metadata or {}),
                )
                for _, rollout in page
                if is_finished(rollout) and has_pairs(rollout.metadata, policy.metadata)
            )
            if len(page) < _PAGE:
                found.sort(key=lambda each: each.end_time, reverse=True)
                return found, now
            after = page[-1][0]

    async def _choose(
        self, policy: RetentionPolicy, ended: Sequence[_Ended], now: float, report: RetentionReport
    ) -> list[str]:
        """Return the ids of what goes, oldest first; notes in the report what is not read."""
        sizes: dict[str, int] = {}
        if policy.keep_bytes is not None:
            sizes = await self._sizes([each.rollout_id for each in ended if not each.empty])
            report.bytes = 0
        chosen: list[str] = []
        total = 0
        for place, each in enumerate(ended):
            size = sizes.get(each.rollout_id, 0)
            total += size
            beyond = (
                (policy.keep_rollouts is not None and place >= policy.keep_rollouts)
                or (policy.keep_seconds is not None and now - each.end_time > policy.keep_seconds)
                or (policy.keep_bytes is not None and total > policy.keep_bytes)
            )
            if not beyond or (each.empty and policy.what == "spans"):
                continue
            if not each.read:
                report.unread += 1
                continue
            chosen.append(each.rollout_id)
            if report.bytes is not None:
                report.bytes += size
        return chosen[::-1]

    async def _sizes(self, rollout_ids: Sequence[str]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for start in range(0, len(rollout_ids), _AT_ONCE):
            batch = rollout_ids[start : start + _AT_ONCE]

            async def step(tx: Transaction, batch: Sequence[str] = batch) -> dict[str, int]:
                return await tx.rows.find_span_bytes(batch)

            sizes.update(await self._read(step, ("spans",)))
        return sizes

    async def _remove(
        self, rollout_ids: Sequence[str], *, spans_only: bool
    ) -> tuple[list[str], int]:
        """Remove what still may be; return whose it was, and how many spans."""

        async def step(tx: Transaction) -> tuple[list[str], int]:
            await tx.load(rollout_ids, attempts=False)
            gone: list[str] = []
            for rollout_id in rollout_ids:
                rollout = await tx.find_rollout(rollout_id)
                # Looked at again, because it may have been opened anew since it was chosen.
                if rollout is None or not is_finished(rollout) or not is_read(rollout):
                    continue
                gone.append(rollout_id)
                if spans_only:
                    tx.put_rollout(_with_time(rollout, SPANS_REMOVED_KEY, tx.now))
                else:
                    tx.rollout_event("rollout_removed", rollout)
            return gone, await tx.rows.remove(gone, spans_only=spans_only) if gone else 0

        gone, spans = await self._write(step)
        self._spans_removed(gone)
        return gone, spans

    def _spans_removed(self, rollout_ids: Sequence[str]) -> None:
        """Take note that spans of these rollouts are gone."""
