"""Durable idempotency: what a call answered, by references to records, and how it is read again.

The caller's key travels by `agentlightning.store.idempotency`. The reply is stored in the same
atomic step as what the call did, so that either both are there or none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from agentlightning.errors import NotFoundError
from agentlightning.store.collection_based.transaction import Transaction
from agentlightning.store.lifecycle import is_fenced
from agentlightning.store.record import attempted, detached
from agentlightning.types import Attempt, AttemptedRollout, ResourcesUpdate, Rollout

T = TypeVar("T")
Refs = list[list[str | int]]


@dataclass
class Answer(Generic[T]):
    """A kind of answer: what to remember of one, and how to give it once more."""

    refs: Callable[[T], Refs]
    """Empty for an answer that is not worth keeping: a repeat then looks anew."""
    read: Callable[[Transaction, Refs], Awaitable[T]]
    """Reads the records as they are now; empty if none of them is of any use to a caller who
    repeats the call: it then looks anew."""


async def _rollouts(tx: Transaction, refs: Refs) -> list[Rollout]:
    return [detached(await tx.rollout(str(rollout_id))) for (rollout_id,) in refs]


async def _rollout(tx: Transaction, refs: Refs) -> Rollout:
    return (await _rollouts(tx, refs))[0]


async def _held_claims(tx: Transaction, refs: Refs) -> list[AttemptedRollout]:
    """Leave out what was taken away, or given back, before the caller knew that it had it."""
    claims: list[AttemptedRollout] = []
    pairs = cast("list[tuple[str, str]]", refs)
    await tx.load([rollout_id for rollout_id, _ in pairs])
    for rollout_id, attempt_id in pairs:
        rollout, latest = tx.loaded(rollout_id)
        if rollout is None or latest is None:
            continue
        if not is_fenced(rollout, latest, latest=latest.attempt_id == attempt_id):
            claims.append(attempted(rollout, latest))
    return claims


async def _claim(tx: Transaction, refs: Refs) -> AttemptedRollout:
    rollout_id, attempt_id = cast("tuple[str, str]", refs[0])
    rollout, attempt, _ = await tx.work(rollout_id, attempt_id)
    return attempted(rollout, attempt)


async def _attempt(tx: Transaction, refs: Refs) -> Attempt:
    return (await _claim(tx, refs)).attempt


async def _numbers(_: Transaction, refs: Refs) -> list[int]:
    return [int(number) for (number,) in refs]


async def _snapshot(tx: Transaction, refs: Refs) -> ResourcesUpdate:
    resources_id, version = refs[0]
    found = await find_version(tx, str(resources_id), int(version))
    if found is None:
        raise NotFoundError(f"Version {version} of resources {resources_id} is no longer kept.")
    return found


async def find_version(tx: Transaction, resources_id: str, version: int) -> ResourcesUpdate | None:
    """Return one version of a snapshot, the newest or a superseded one."""
    newest = await tx.rows.resources.get({"resources_id": {"exact": resources_id}})
    if newest is not None and newest.version == version:
        return newest
    if tx.rows.resource_versions is None:
        return None
    return await tx.rows.resource_versions.get(
        {"resources_id": {"exact": resources_id}, "version": {"exact": version}}
    )


def _claim_refs(claims: Sequence[AttemptedRollout]) -> Refs:
    return [[claim.rollout_id, claim.attempt.attempt_id] for claim in claims]


ROLLOUT: Final = Answer[Rollout](lambda rollout: [[rollout.rollout_id]], _rollout)
ROLLOUTS: Final = Answer[list[Rollout]](
    lambda rollouts: [[rollout.rollout_id] for rollout in rollouts], _rollouts
)
CLAIM: Final = Answer[AttemptedRollout](lambda claim: _claim_refs([claim]), _claim)
CLAIMS: Final = Answer[list[AttemptedRollout]](_claim_refs, _held_claims)
ATTEMPT: Final = Answer[Attempt](
    lambda attempt: [[attempt.rollout_id, attempt.attempt_id]], _attempt
)
NUMBERS: Final = Answer[list[int]](lambda numbers: [[number] for number in numbers], _numbers)
SNAPSHOT: Final = Answer[ResourcesUpdate](
    lambda update: [[update.resources_id, update.version]], _snapshot
)
