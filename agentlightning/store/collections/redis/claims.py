"""Finding work in the queue: what one block is about to claim, others leave out for a moment.

Reservations only keep claims out of each other's way, they end by themselves, and nothing relies
on them: whoever commits first has the rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentlightning._internal.clock import now
from agentlightning.store.collections.filtering import has_pairs
from agentlightning.store.collections.redis import pages, scripts
from agentlightning.store.collections.redis.layout import split_entry, text
from agentlightning.store.collections.redis.session import BATCH, Session

_RESERVED_SECONDS: Final = 5.0
_QUEUE: Final = "queue"


def _moments() -> tuple[int, int]:
    """Return now and the end of a reservation, in milliseconds."""
    moment = now()
    return int(moment * 1000), int((moment + _RESERVED_SECONDS) * 1000)


async def find_queued(session: Session, limit: int, offset: int) -> Sequence[str]:
    """Return ids from the queue, reserved for this block as far as they were free."""
    upto = offset + limit
    lacking = upto - len(session.queue_entries)
    if lacking > 0 and session.tracks:
        reserved, entries, rows = await session.server.script(
            scripts.CLAIM, *_moments(), lacking, session.queue_cursor
        )
        ids = _note(session, entries)
        session.take_in(ids, rows)
        if reserved:
            session.reserve(ids)
    elif lacking > 0:
        entries = await pages.beyond(session.server, _QUEUE, session.queue_cursor, lacking)
        _note(session, entries)
    else:
        entries = []
    if entries:
        session.queue_cursor = split_entry(entries[-1])[0]
    return list(session.queue_entries)[offset:upto]


def _note(session: Session, entries: Sequence[bytes]) -> list[str]:
    """Give entries to the block, and return their ids."""
    ids = [split_entry(raw)[1] for raw in entries]
    for rollout_id, raw in zip(ids, entries, strict=True):
        session.queue_entries.setdefault(rollout_id, text(raw))
    return ids


async def find_matching(
    session: Session, limit: int, offset: int, metadata: Mapping[str, Any]
) -> Sequence[str]:
    """Return ids of rollouts with this metadata from the queue; others stay free."""
    upto = offset + limit
    held: list[bytes] = []
    while len(session.queue_entries) < upto:
        entries = await pages.beyond(session.server, _QUEUE, session.queue_cursor, BATCH)
        if not entries:
            break
        session.queue_cursor = split_entry(entries[-1])[0]
        ids = [split_entry(raw)[1] for raw in entries]
        await session.find_rollouts(ids)
        matching = [
            raw
            for rollout_id, raw in zip(ids, entries, strict=True)
            if (rollout := session.peek_rollout(rollout_id)) is not None
            and has_pairs(rollout.metadata, metadata)
        ]
        wanted = matching[: upto - len(session.queue_entries)]
        if len(wanted) < len(matching):
            # What is beyond the limit is for the next question.
            session.queue_cursor = split_entry(wanted[-1])[0]
        held += await _reserve(session, wanted) if session.tracks else []
        if not session.tracks:
            _note(session, wanted)
    if not session.queue_entries:
        _note(session, held[:upto])
    return list(session.queue_entries)[offset:upto]


async def _reserve(session: Session, entries: Sequence[bytes]) -> list[bytes]:
    """Reserve entries and take those that were free; return the others."""
    if not entries:
        return []
    ids = [split_entry(raw)[1] for raw in entries]
    got = await session.server.script(scripts.RESERVE, *_moments(), *ids)
    free = [raw for raw, ok in zip(entries, got, strict=True) if ok]
    session.reserve(_note(session, free))
    return [raw for raw, ok in zip(entries, got, strict=True) if not ok]
