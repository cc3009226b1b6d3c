"""One collection of records in memory, found by primary key, by its first part, or by an index."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

from pydantic import BaseModel

from agentlightning.errors import NotFoundError
from agentlightning.store.collections.base import Collection, DuplicatedPrimaryKeyError
from agentlightning.store.collections.filtering import (
    check_page,
    compile_filter,
    conditions,
    is_any,
    musts,
    page,
    sort_records,
)
from agentlightning.store.record import replace
from agentlightning.types import FilterOptions, PaginatedResult, SortOptions

M = TypeVar("M", bound=BaseModel)


def _required(options: FilterOptions | None) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield (field, allowed values) pairs that every match of a filter must satisfy."""
    if not options:
        return
    for must in musts(options):
        yield from _required(must)
    own = conditions(options)
    if len(own) == 1 or not is_any(options):
        for field, operator, operand in own:
            if operator == "exact":
                yield field, (operand,)
            elif operator == "within":
                yield field, tuple(operand)


class ListBasedCollection(Collection[M]):
    """Records in memory, grouped by the first field of their primary key.

    Listings are in order of insertion within a group, and of the groups' first records.

    Args:
        items: Records to begin with.
        item_type: Their class.
        primary_keys: Fields that identify a record.
        id: Accepted for 0.3.0.
        tracker: Accepted for 0.3.0.
        indexes: Further fields by which records are found without a scan.
    """

    def __init__(
        self,
        items: Iterable[M],
        item_type: type[M],
        primary_keys: Sequence[str],
        id: str | None = None,
        tracker: Any = None,
        *,
        indexes: Sequence[str] = (),
    ) -> None:
        if not primary_keys:
            raise ValueError("A collection needs at least one primary key field.")
        self._item_type = item_type
        self._primary_keys = tuple(primary_keys)
        self._key: Callable[[M], Any] = attrgetter(*self._primary_keys)
        self._is_flat = len(self._primary_keys) == 1
        self._records: dict[Any, M] = {}
        # Perf: tuples of keys are nothing that the garbage collector looks through.
        self._groups: dict[Any, tuple[Any, ...]] = {}
        """The keys with the same first field, of a collection with several key fields."""
        self.revision = 0
        """Grows with every change, so that derived values can be cached."""
        self._ordinal = 0
        # Field to value to key to position in order of insertion.
        self._indexes: dict[str, defaultdict[Any, dict[Any, int]]] = {
            field: defaultdict(dict) for field in indexes
        }
        for item in items:
            self.put(item)

    def primary_keys(self) -> Sequence[str]:
        return self._primary_keys

    def item_type(self) -> type[M]:
        return self._item_type

    async def size(self) -> int:
        return len(self._records)

    def _find(self, item: M) -> M | None:
        return self._records.get(self._key(item))

    @property
    def records(self) -> Mapping[Any, M]:
        """All records by primary key: the value of its field, or a tuple of those of its fields."""
        return self._records

    def group(self, prefix: Any) -> list[M]:
        """Return the records whose first key field has this value, in order of insertion."""
        if self._is_flat:
            return [self._records[prefix]] if prefix in self._records else []
        return [self._records[key] for key in self._groups.get(prefix, ())]

    def put(self, item: M) -> None:
        """Store a record, in the place of the one that has its key, if there is one."""
        self.put_all({self._key(item): item})

    def put_all(self, items: Mapping[Any, M]) -> None:
        """Store records by their primary keys, each in the place of the one that has its key."""
        records = self._records
        for key, item in items.items():
            old = records.get(key)
            records[key] = item
            if old is None:
                self._note_new(key, item)
            elif self._indexes:
                self._note_changed(key, old, item)
        self.revision += len(items)

    def _note_new(self, key: Any, item: M) -> None:
        self._ordinal += 1
        if not self._is_flat:
            self._groups[key[0]] = (*self._groups.get(key[0], ()), key)
        for field, index in self._indexes.items():
            index[getattr(item, field)][key] = self._ordinal

    def _note_changed(self, key: Any, old: M, item: M) -> None:
        for field, index in self._indexes.items():
            before, after = getattr(old, field), getattr(item, field)
            if before != after:
                index[after][key] = index[before].pop(key)

    def remove(self, item: M) -> None:
        """Remove the record that has the item's key, which is there."""
        key = self._key(item)
        if key not in self._records:
            raise self._missing(item)
        if not self._is_flat:
            left = tuple(other for other in self._groups[key[0]] if other != key)
            if left:
                self._groups[key[0]] = left
            else:
                del self._groups[key[0]]
        self._forget(key)

    def _forget(self, key: Any) -> None:
        stored = self._records.pop(key)
        self.revision += 1
        for field, index in self._indexes.items():
            index[getattr(stored, field)].pop(key)

    def counts(self, field: str) -> dict[Any, int]:
        """Return how many records have each value of an indexed field."""
        return {value: len(keys) for value, keys in self._indexes[field].items() if keys}

    def _all(self) -> Iterable[M]:
        if self._is_flat:
            return self._records.values()
        keys = chain.from_iterable(self._groups.values())
        return [self._records[key] for key in keys]

    def _check_type(self, items: Sequence[M]) -> None:
        for item in items:
            if not isinstance(item, self._item_type):
                raise TypeError(
                    f"The collection holds {self._item_type.__name__}, not {type(item).__name__}."
                )

    def _candidates(self, options: FilterOptions | None) -> Iterable[M]:
        """Return records among which all matches are, in order of insertion."""
        for field, values in _required(options):
            if field == self._primary_keys[0]:
                return chain.from_iterable(self.group(value) for value in dict.fromkeys(values))
            index = self._indexes.get(field)
            if index is not None and self._is_flat:
                found = [pair for value in set(values) for pair in index.get(value, {}).items()]
                found.sort(key=lambda pair: pair[1])
                return [self._records[key] for key, _ in found]
        return self._all()

    def _by_key(self, options: FilterOptions | None) -> tuple[bool, M | None]:
        """Return (True, record) when a filter is nothing but a primary key."""
        if not options or len(options) != len(self._primary_keys):
            return False, None
        values: list[Any] = []
        for field in self._primary_keys:
            operations = options.get(field)
            if not operations or len(operations) != 1 or operations.get("exact") is None:
                return False, None
            values.append(operations["exact"])
        return True, self._records.get(values[0] if self._is_flat else tuple(values))

    def _select(self, options: FilterOptions | None) -> list[M]:
        prefix = options.get(self._primary_keys[0]) if options and len(options) == 1 else None
        if prefix and len(prefix) == 1 and prefix.get("exact") is not None:
            return self.group(prefix["exact"])
        test = compile_filter(options)
        candidates = self._candidates(options)
        return list(candidates) if test is None else [item for item in candidates if test(item)]

    async def query(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[M]:
        check_page(limit, offset)
        return page(sort_records(self._select(filter), self._item_type, sort), limit, offset)

    async def get(
        self,
        filter: FilterOptions | None = None,
        sort: SortOptions | None = None,
    ) -> M | None:
        if sort is not None:
            found = self._select(filter)
            if len(found) > 1:
                found = sort_records(found, self._item_type, sort)
            return found[0] if found else None
        is_key, record = self._by_key(filter)
        if is_key:
            return record
        test = compile_filter(filter)
        candidates = self._candidates(filter)
        return next((item for item in candidates if test is None or test(item)), None)

    async def insert(self, items: Sequence[M]) -> None:
        self._check_type(items)
        keys = {self._key(item) for item in items}
        duplicate = next((item for item in items if self._find(item) is not None), None)
        if duplicate is not None or len(keys) != len(items):
            shown = "" if duplicate is None else f" {self._key(duplicate)!r}"
            raise DuplicatedPrimaryKeyError(
                f"{self._item_type.__name__}{shown} is there already, or is given twice; "
                "update it instead."
            )
        for item in items:
            self.put(item)

    def _missing(self, item: M) -> NotFoundError:
        return NotFoundError(
            f"{self._item_type.__name__} {self._key(item)!r} is not there; insert it first."
        )

    async def update(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)
        present = [self._find(item) for item in items]
        for item, old in zip(items, present, strict=True):
            if old is None:
                raise self._missing(item)
        return [self._merge(item, update_fields) for item in items]

    def _merge(self, item: M, update_fields: Sequence[str] | None) -> M:
        """Store an item and return what is stored then."""
        old = self._find(item)
        if old is None or update_fields is None:
            new = item
        else:
            new = replace(old, **{field: getattr(item, field) for field in update_fields})
        self.put(new)
        return new

    async def upsert(
        self, items: Sequence[M], update_fields: Sequence[str] | None = None
    ) -> Sequence[M]:
        self._check_type(items)
        return [self._merge(item, update_fields) for item in items]

    async def delete(self, items: Sequence[M]) -> None:
        for item in items:
            if self._find(item) is None:
                raise self._missing(item)
        for item in items:
            self.remove(item)

    def drop_group(self, prefix: Any) -> int:
        """Remove all records whose first key field has this value; return their number."""
        if self._is_flat:
            keys = (prefix,) if prefix in self._records else ()
        else:
            keys = self._groups.pop(prefix, ())
        for key in keys:
            self._forget(key)
        return len(keys)
