"""Where the matches of a filter are to be looked for, and whether all of them match."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentlightning.store.collections.filtering import conditions, is_any, musts
from agentlightning.store.collections.redis.layout import Table
from agentlightning.types import FilterOptions

_MOST_KEYS: Final = 10_000
"""Products of more key values than this are looked for through an index instead."""

Condition = tuple[str, str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Records among which all matches are: those with these keys, or those in these indexes."""

    keys: Sequence[str] | None = None
    indexes: Sequence[str] = ()
    is_complete: bool = False
    """Every one of them matches."""


def _demands(options: FilterOptions | None) -> tuple[list[Condition], bool]:
    """Return conditions that every match meets, and whether there are no others."""
    if not options:
        return [], True
    found: list[Condition] = []
    whole = True
    for must in musts(options):
        inner, inner_whole = _demands(must)
        found += inner
        whole = whole and inner_whole
    own = conditions(options)
    if len(own) > 1 and is_any(options):
        return found, False
    return found + own, whole


def _values(demands: Sequence[Condition], field: str) -> list[Any] | None:
    """Return the values that a field may have, if it must have one of several."""
    for name, operator, operand in demands:
        if name == field and operator == "exact":
            return [operand]
        if name == field and operator == "within":
            # Not a dict: values from users may have no hash.
            return list(operand)
    return None


def _by_key(table: Table[Any], demands: Sequence[Condition]) -> list[str] | None:
    pools = [_values(demands, field) for field in table.keys]
    if not all(pool is not None for pool in pools):
        return None
    present = [pool for pool in pools if pool is not None]
    if math.prod(len(pool) for pool in present) > _MOST_KEYS:
        return None
    return list(dict.fromkeys(table.join(values) for values in itertools.product(*present)))


def source(table: Table[Any], options: FilterOptions | None) -> Source:
    """Return where to look for a filter's matches."""
    demands, whole = _demands(options)
    keys = _by_key(table, demands)
    if keys is not None:
        return Source(keys=keys)
    owners = _values(demands, table.keys[0]) if table.rank is not None else None
    if owners is not None:
        indexes, values = table.owner_index, owners
    else:
        statuses = _values(demands, table.status) if table.status is not None else None
        if statuses is None:
            return Source(indexes=[table.order_index], is_complete=whole and not demands)
        indexes, values = table.status_index, statuses
    # Only texts are equal exactly when what they are written as is.
    plain = all(isinstance(value, str) for value in values)
    return Source(
        indexes=list(dict.fromkeys(indexes(value) for value in values)),
        is_complete=whole and plain and len(demands) == 1,
    )
