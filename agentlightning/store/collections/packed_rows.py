"""Packed spans in a sequence that Python's garbage collector has nothing to do with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, overload

from agentlightning.store.collections.packed import PackedSpan

__all__ = ["READABLE", "PackedRows"]

_PARTS: Final = PackedSpan.__slots__
READABLE: Final = frozenset(_PARTS) - {"packed", "shape"}
"""Fields of a span that are read without unpacking it."""
_WIDTH: Final = len(_PARTS)
_parts_of: Final = attrgetter(*_PARTS)


class PackedRows(Sequence[PackedSpan]):
    """Packed spans in order of insertion, made anew at each reading.

    Perf: they are kept as one flat list of their parts. With an object for each, the collector
    walked everything in the process once in storing 40,000 spans, which took as long as that.
    """

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: list[Any] = []

    def __len__(self) -> int:
        return len(self._cells) // _WIDTH

    @overload
    def __getitem__(self, index: int) -> PackedSpan: ...
    @overload
    def __getitem__(self, index: slice) -> list[PackedSpan]: ...
    def __getitem__(self, index: int | slice) -> PackedSpan | list[PackedSpan]:
        if isinstance(index, slice):
            return [self._row(number) for number in range(*index.indices(len(self)))]
        return self._row(range(len(self))[index])

    def __iter__(self) -> Iterator[PackedSpan]:
        return map(self._row, range(len(self)))

    def _row(self, number: int) -> PackedSpan:
        return PackedSpan.of_parts(self._cells[number * _WIDTH : (number + 1) * _WIDTH])

    def append(self, row: PackedSpan) -> None:
        """Add a span at the end."""
        self._cells.extend(_parts_of(row))

    def values(self, field: str, start: int) -> list[Any]:
        """Return a field that packed spans keep readable, of the rows from `start` on."""
        return self._cells[start * _WIDTH + _PARTS.index(field) :: _WIDTH]

    def where(self, test: Callable[[Any], bool], fields: Sequence[str]) -> list[PackedSpan]:
        """Return the rows that pass a test, which looks at no other fields than these."""
        if len(fields) != 1 or fields[0] not in READABLE:
            return [row for row in self if test(row)]
        (field,) = fields
        # Perf: one stand-in instead of a span for each row makes this five times as fast.
        probe: Any = PackedSpan.__new__(PackedSpan)
        found: list[PackedSpan] = []
        for position, value in enumerate(self.values(field, 0)):
            setattr(probe, field, value)
            if test(probe):
                found.append(self._row(position))
        return found

    def ordered(self, field: str, none: Any, *, backwards: bool) -> list[int]:
        """Return the positions of the rows in the order of a field that packed spans keep
        readable, equal ones in order of insertion.

        Args:
            field: The field.
            none: What None sorts as.
            backwards: The largest first.
        """
        keys = [none if value is None else value for value in self.values(field, 0)]
        return sorted(range(len(self)), key=keys.__getitem__, reverse=backwards)
