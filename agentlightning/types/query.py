"""Queries: filters, ordering and pages, the same for every kind of record."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypedDict, TypeVar, overload

from pydantic import BaseModel

T = TypeVar("T")


class FilterField(TypedDict, total=False):
    """Conditions on one field; several are AND-ed, a None operand is ignored."""

    exact: Any
    within: Sequence[Any]
    contains: str


FilterOptions = Mapping[str, Any]
"""Field name to `FilterField`, with two reserved keys: `_aggregate` ("and", the default, or
"or") joins the fields; `_must` holds one more such mapping (or several) that always applies."""


class SortOptions(TypedDict):
    """Order of a listing by one field."""

    name: str
    order: Literal["asc", "desc"]


class PaginatedResult(BaseModel, Sequence[T], Generic[T]):
    """One page of a listing; behaves as the sequence of its items."""

    items: Sequence[T]
    limit: int
    """As asked for; -1 means no limit."""
    offset: int
    total: int
    """Matches before paging."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]  # a sequence, not a mapping
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.items[index]

    def __repr__(self) -> str:
        if not self.items:
            shown = "empty"
        else:
            end = "" if self.limit == -1 else str(self.offset + self.limit)
            more = ", ..." if len(self.items) > 1 else ""
            shown = f"({self.offset}:{end} of {self.total}) [{self.items[0]!r}{more}]"
        return f"<PaginatedResult {shown}>"

    __str__ = __repr__
