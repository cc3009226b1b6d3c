"""The plain values of rollouts' metadata as rows, by which rollouts are found without a scan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select

from agentlightning.store.collections.sql.schema import rollout_tags, rollouts
from agentlightning.store.collections.sql.statement import Executor, Statement, first
from agentlightning.types import Rollout

_LONGEST: Final = 200
_c = rollout_tags.c
_ORDINAL: Final = (
    select(rollouts.c.ordinal)
    .where(rollouts.c.rollout_id == bindparam("rollout_id"))
    .scalar_subquery()
)
_INSERT: Final = Statement(
    insert(rollout_tags).values(key=bindparam("key"), value=bindparam("value"), ordinal=_ORDINAL),
    "key",
    "value",
    "rollout_id",
)
_COUNT: Final = Statement(
    select(func.count())
    .select_from(rollout_tags)
    .where(_c.key == bindparam("key"), _c.value == bindparam("value")),
    "key",
    "value",
)
_DELETE: Final = Statement(
    delete(rollout_tags).where(
        _c.key == bindparam("key"), _c.value == bindparam("value"), _c.ordinal == _ORDINAL
    ),
    "key",
    "value",
    "rollout_id",
)


def tag_value(value: Any) -> str | None:
    """Return the text that stands for a value and all that are equal to it; None if none does."""
    if value is None:
        return "-"
    if isinstance(value, bool | int | float):
        number = float(value) if abs(value) < 2**53 else value
        return f"n{number!r}" if number == number else None
    if not isinstance(value, str):
        return None
    if len(value) <= _LONGEST and value.isprintable():
        return f"s{value}"
    digest = hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"h{digest}"


def tags_of(rollout: Rollout) -> set[tuple[str, str]]:
    """Return a rollout's tags."""
    metadata = rollout.metadata or {}
    pairs = ((_key(key), tag_value(value)) for key, value in metadata.items())
    return {(key, value) for key, value in pairs if value is not None}


def _key(key: Any) -> str:
    return tag_value(str(key)) or ""


def wanted_tags(pairs: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Return the tags that stand for metadata pairs; None where not all of them have one."""
    found = [(_key(key), tag_value(value)) for key, value in pairs.items()]
    known = [(key, value) for key, value in found if value is not None]
    return known if len(known) == len(found) else None


def count_tagged(executor: Executor, pairs: Mapping[str, Any]) -> int | None:
    """Return how many rollouts have the rarest of some metadata pairs; None where nobody knows."""
    tags = wanted_tags(pairs)
    return min(first(executor, _COUNT, tag) for tag in tags) if tags else None


def add_tags(executor: Executor, new: Sequence[Rollout]) -> None:
    """Write the tags of rollouts that have just been inserted."""
    rows = [
        (*tag, rollout.rollout_id)
        for rollout in new
        if rollout.metadata
        for tag in tags_of(rollout)
    ]
    if rows:
        executor.change_many(_INSERT, rows)


def change_tags(executor: Executor, old: Rollout, new: Rollout) -> None:
    """Write what a changed metadata changes about a rollout's tags."""
    before, after = tags_of(old), tags_of(new)
    key = new.rollout_id
    if before != after:
        executor.change_many(_DELETE, [(*tag, key) for tag in sorted(before - after)])
        executor.change_many(_INSERT, [(*tag, key) for tag in sorted(after - before)])


def remove_tags(executor: Executor, old: Rollout) -> None:
    """Remove the tags of a rollout that is about to be removed."""
    executor.change_many(_DELETE, [(*tag, old.rollout_id) for tag in sorted(tags_of(old))])
