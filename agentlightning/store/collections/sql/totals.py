"""How many records there are, kept exactly with every write, so that nobody has to count.

Rollouts are counted by status and mode, other records by table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select

from agentlightning.store.collections.sql.schema import totals
from agentlightning.store.collections.sql.statement import Executor, Statement, upsert
from agentlightning.types import FilterOptions, Rollout

_ADD: Final = upsert(totals, ("name", "value"), ("name",), add=("value",))
_ALL: Final = Statement(select(totals.c.name, totals.c.value))
_ROLLOUTS: Final = "rollouts"
_NO_MODE: Final = ""
EVENTS: Final = "events"
"""Counts all events that there ever were, so it is the last one's number."""
_FACETS: Final = frozenset({"status", "mode"})

Facets = Mapping[tuple[str, str | None], int]
"""Status and mode to the number of such rollouts."""


def facet_name(status: str, mode: str | None) -> str:
    """Return the name under which rollouts of a status and mode are counted."""
    return f"{_ROLLOUTS}/{status}/{mode or _NO_MODE}"


class Totals:
    """What a transaction changes about the totals; written once, at its end."""

    def __init__(self) -> None:
        self._changes: dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        """Count records of a table; negative when they are removed."""
        self._changes[name] = self._changes.get(name, 0) + count

    def rollout(self, old: Rollout | None, new: Rollout | None) -> None:
        """Count a rollout that was added, changed or removed."""
        if old is not None:
            self.add(facet_name(old.status, old.mode), -1)
        if new is not None:
            self.add(facet_name(new.status, new.mode), 1)

    def flush(self, executor: Executor, events: int = 0) -> None:
        """Write the changes, and count events.

        Everybody begins with the events' number, so that two writers cannot wait for each other,
        and numbers become visible in their order.
        """
        rows = [(name, count) for name, count in self._changes.items() if count]
        self._changes = {}
        if rows or events:
            executor.change_many(_ADD, [(EVENTS, events), *rows])


def read_totals(executor: Executor) -> dict[str, int]:
    """Return all totals by name."""
    return dict(executor.rows(_ALL))


def total_of(executor: Executor, table: str) -> int:
    """Return how many records a table has."""
    known = read_totals(executor)
    if table != _ROLLOUTS:
        return known.get(table, 0)
    return sum(read_facets(known).values())


def read_facets(known: Mapping[str, int]) -> Facets:
    """Return the numbers of rollouts by status and mode."""
    facets: dict[tuple[str, str | None], int] = {}
    for name, count in known.items():
        kind, *parts = name.split("/")
        if kind == _ROLLOUTS and parts:
            facets[parts[0], parts[1] or None] = count
    return facets


def facet_total(facets: Facets, conditions: Sequence[tuple[str, str, Any]], any_of: bool) -> int:
    """Return how many rollouts satisfy conditions on nothing but status and mode."""

    def holds(values: Mapping[str, str | None]) -> bool:
        tests = (
            values[field] == operand if operator == "exact" else values[field] in operand
            for field, operator, operand in conditions
        )
        return any(tests) if any_of else all(tests)

    return sum(
        count for (status, mode), count in facets.items() if holds({"status": status, "mode": mode})
    )


def only_facets(options: FilterOptions | None, conditions: Sequence[tuple[str, str, Any]]) -> bool:
    """Return whether a filter asks for nothing but status and mode."""
    return not (options or {}).get("_must") and all(
        field in _FACETS and operator in {"exact", "within"} for field, operator, _ in conditions
    )
