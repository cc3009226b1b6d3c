"""How many records there are, kept exactly with every write, so that nobody has to count.

Rollouts are counted by status and mode, other records by table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ClauseElement, Dialect, select, text

from agentlightning.store.collections.sql.schema import totals
from agentlightning.store.collections.sql.statement import Executor, Statement, upsert
from agentlightning.types import FilterOptions, Rollout

_ADD: Final = upsert(totals, ("name", "value"), ("name",), add=("value",))
_UNGATHERED: Final = (
    "FROM events AS e, json_each(e.counts) AS c "
    "WHERE e.seq > coalesce((SELECT value FROM totals WHERE name = 'events'), 0)"
)
"""In SQLite: the counts that are kept with events and not yet added to the totals."""
_GATHER: Final = Statement(
    text(
        f"INSERT INTO totals (name, value) SELECT c.key, sum(c.value) {_UNGATHERED} GROUP BY c.key "
        "ON CONFLICT (name) DO UPDATE SET value = totals.value + excluded.value"
    )
)
_GATHERED: Final = upsert(totals, ("name", "value"), ("name",))


def _all(dialect: Dialect) -> ClauseElement:
    if dialect.name == "sqlite":
        return text(f"SELECT name, value FROM totals UNION ALL SELECT c.key, c.value {_UNGATHERED}")
    return select(totals.c.name, totals.c.value)


_ALL: Final = Statement(_all)
_ROLLOUTS: Final = "rollouts"
_NO_MODE: Final = ""
EVENTS: Final = "events"
"""Counts all events that there ever were, so it is the last one's number; see `schema.totals`."""
GATHER_EVERY: Final = 128
"""Events after which what was counted with them is added to the totals."""
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

    def take(self) -> list[tuple[str, int]]:
        """Return the changes and forget them."""
        rows = [(name, count) for name, count in self._changes.items() if count]
        self._changes = {}
        return rows

    def flush(self, executor: Executor, events: int = 0) -> None:
        """Write the changes, and count events.

        Everybody begins with the events' number, so that two writers cannot wait for each other,
        and numbers become visible in their order.
        """
        rows = self.take()
        if not counts_with_events(executor) and (rows or events):
            rows.insert(0, (EVENTS, events))
        if rows:
            executor.change_many(_ADD, rows)


def read_totals(executor: Executor) -> dict[str, int]:
    """Return all totals by name."""
    known: dict[str, int] = {}
    for name, count in executor.rows(_ALL):
        known[name] = known.get(name, 0) + count
    return known


def counts_with_events(executor: Executor) -> bool:
    """Return whether what a step counts is kept with its events.

    Perf: a table of its own costs SQLite a page in each commit.
    """
    return executor.dialect.name == "sqlite"


def gather(executor: Executor, last: int) -> None:
    """Add to the totals what was counted with events up to the last one."""
    executor.change(_GATHER)
    executor.change(_GATHERED, (EVENTS, last))


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
